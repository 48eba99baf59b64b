"""Coloured noise against its closed form."""

import jax
import numpy as np
import pytest

from planners.noise import colored

DRAWS = 4000


def draw(horizon, beta):
    noise = colored(jax.random.key(3), (DRAWS, horizon, 1), beta)
    assert noise.shape == (DRAWS, horizon, 1)
    return np.asarray(noise[..., 0], np.float64)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_power_falls_with_frequency_to_the_minus_beta(beta):
    horizon = 64
    power = np.square(np.abs(np.fft.rfft(draw(horizon, beta)))).mean(0)[1:]
    frequency = np.arange(1, horizon // 2 + 1)
    slope = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert abs(slope + beta) < 0.02
    # every single frequency: a mean of squares of 4000 draws
    relative = power * frequency**beta / np.mean(power * frequency**beta)
    assert np.abs(relative - 1).max() < 4 * np.sqrt(2 / DRAWS)


@pytest.mark.parametrize(("horizon", "beta"), [(1, 2.0), (2, 1.0), (9, 0.0), (9, 3.0), (10, 3.0)])
def test_every_step_has_mean_zero_and_unit_variance(horizon, beta):
    noise = draw(horizon, beta)
    assert np.abs(noise.mean(0)).max() < 4 / np.sqrt(DRAWS)
    assert np.abs(np.square(noise).mean(0) - 1).max() < 4 * np.sqrt(2 / DRAWS)


def test_without_colour_it_is_the_white_noise_it_is_made_of():
    key = jax.random.key(0)
    white = jax.random.normal(key, (4, 7, 2))
    np.testing.assert_allclose(colored(key, (4, 7, 2), 0.0), white, atol=1e-6)


@pytest.mark.parametrize("horizon", [10, 30])
def test_neighbouring_steps_are_correlated_as_the_spectrum_says(horizon):
    # Wiener-Khinchin: the autocorrelation is the cosine transform of the power spectrum
    frequency = np.fft.fftfreq(horizon, 1 / horizon)
    power = np.maximum(np.abs(frequency), 1.0) ** -2
    expected = (power * np.cos(2 * np.pi * frequency / horizon)).sum() / power.sum()
    noise = draw(horizon, 2.0)
    assert (noise[:, :-1] * noise[:, 1:]).mean() == pytest.approx(expected, abs=0.02)


def test_dimensions_are_independent():
    noise = np.asarray(colored(jax.random.key(1), (DRAWS, 8, 2), 2.0))
    assert abs((noise[..., 0] * noise[..., 1]).mean(0)).max() < 4 / np.sqrt(DRAWS)
