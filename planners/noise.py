"""Coloured noise along time."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def colored(key: chex.PRNGKey, shape: tuple[int, ...], beta: float) -> chex.Array:
    """Draws Gaussian noise whose power spectrum falls as frequency^-beta; white for beta = 0.

    Zero mean and unit variance at every time step. It is periodic: first and last step are as
    correlated as neighbours. Frequency 0 has the power of the lowest other one (Timmer & Koenig
    1995). Consumes `key`.

    Args:
      key: of the draw.
      shape: [..., H, A]; time is the axis before the last.
      beta: exponent; 0 white, 1 pink, 2 red noise.
    """
    horizon = shape[-2]
    frequency = np.abs(np.fft.fftfreq(horizon, d=1 / horizon))  # 0, 1, ... H // 2, ... 1
    amplitude = np.maximum(frequency, 1.0) ** (-beta / 2)
    amplitude /= np.sqrt(np.mean(amplitude**2))
    gain = jnp.asarray(amplitude[: horizon // 2 + 1], jnp.float32)
    white = jax.random.normal(key, shape)
    spectrum = jnp.fft.rfft(white, axis=-2)
    spectrum *= jnp.broadcast_to(gain[:, None], spectrum.shape)
    return jnp.fft.irfft(spectrum, n=horizon, axis=-2)
