"""The squashed Gaussian policy."""

import chex
import distrax
import jax.numpy as jnp

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # bounds of the original SAC code


def tanh_gaussian(outputs: chex.Array) -> distrax.Distribution:
    """Returns the distribution over actions [..., A] in [-1, 1] given network outputs [..., 2A].

    A diagonal Gaussian squashed by tanh (Haarnoja et al. 2018a, appendix C).
    """
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    std = jnp.exp(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
    gaussian = distrax.MultivariateNormalDiag(mean, std)
    return distrax.Transformed(gaussian, distrax.Block(distrax.Tanh(), ndims=1))


def greedy(outputs: chex.Array) -> chex.Array:
    """Returns the action tanh(mean) [..., A] given network outputs [..., 2A]."""
    mean, _ = jnp.split(outputs, 2, axis=-1)
    return jnp.tanh(mean)
