import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from agents import policies


def outputs(mean, log_std):
    return jnp.array([*mean, *log_std], jnp.float32)


@pytest.mark.parametrize("action_size", [1, 3])
def test_log_prob_at_the_centre_of_a_standard_gaussian(action_size):
    log_prob = policies.log_prob(jnp.zeros(2 * action_size), jnp.zeros(action_size))
    assert log_prob.shape == ()
    np.testing.assert_allclose(log_prob, -0.918939 * action_size, rtol=1e-6)


def test_log_prob_is_the_gaussian_changed_by_the_derivative_of_tanh():
    mean, log_std = np.array([0.3, -1.2]), np.array([-0.5, 0.4])
    action = np.array([0.7, -0.2])
    z, std = np.arctanh(action), np.exp(log_std)
    gaussian = -0.5 * ((z - mean) / std) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    expected = (gaussian - np.log(1 - action**2)).sum()
    log_prob = policies.log_prob(outputs(mean, log_std), jnp.asarray(z))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.3, -0.5), (-1.0, -1.5)])
def test_the_density_integrates_to_one(mean, log_std):
    # Gauss-Legendre in z = atanh(a), where the integrand is smooth; da = (1 - a^2) dz.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = mean + 5 * nodes
    action = np.tanh(z)
    log_prob = policies.log_prob(
        jnp.tile(outputs([mean], [log_std]), (200, 1)), jnp.asarray(z, jnp.float32)[:, None]
    )
    density = np.exp(np.asarray(log_prob, np.float64)) * (1 - action**2)
    np.testing.assert_allclose((density * 5 * weights).sum(), 1.0, atol=2e-3)


def test_the_mean_of_samples_is_that_of_the_density():
    def integrand(z):
        return np.tanh(z) * np.exp(-0.5 * ((z - 0.5) / 0.8) ** 2) / (0.8 * np.sqrt(2 * np.pi))

    expected, _ = integrate.quad(integrand, -8, 9)
    network = jnp.tile(outputs([0.5], [np.log(0.8)]), (40_000, 1))
    samples, _ = policies.sample_and_log_prob(network, jax.random.key(0))
    # a standard error is below 0.8 / 200 = 0.004
    np.testing.assert_allclose(samples.mean(), expected, atol=0.015)


def test_log_prob_of_samples_is_finite_and_right_where_tanh_saturates():
    # z = 20 + e: log N(e) - log(1 - tanh(z)^2) with 1 - tanh(z)^2 -> 4 exp(-2 z), so its mean is
    # -0.5 - 0.918939 + 2 (20 - log 2).
    network = jnp.tile(outputs([20.0], [0.0]), (20_000, 1))
    action, log_prob = policies.sample_and_log_prob(network, jax.random.key(0))
    assert (action == 1.0).all()
    np.testing.assert_allclose(log_prob.mean(), 37.19477, atol=0.08)


@pytest.mark.parametrize(("given", "used"), [(100.0, 2.0), (-100.0, -20.0)])
def test_the_log_std_is_clipped(given, used):
    log_prob = policies.log_prob(outputs([0.0], [given]), jnp.zeros(1))
    np.testing.assert_allclose(log_prob, -0.918939 - used, rtol=1e-6)


def test_samples_stay_in_the_box():
    network = jnp.tile(outputs([5.0, -5.0, 0.0], [2.0, 2.0, 2.0]), (1000, 1))
    samples = np.asarray(policies.sample_and_log_prob(network, jax.random.key(1))[0])
    assert samples.shape == (1000, 3)
    assert np.abs(samples).max() <= 1.0
    assert (samples[:, 2] < -0.9).any()
    assert (samples[:, 2] > 0.9).any()


def test_greedy_is_tanh_of_the_mean():
    mean = np.array([[0.3, -2.0], [0.0, 7.0]])
    network = jnp.asarray(np.concatenate([mean, np.full((2, 2), 1.5)], axis=1), jnp.float32)
    np.testing.assert_allclose(policies.greedy(network), np.tanh(mean), rtol=1e-6)


def test_samples_of_a_batch_come_with_their_own_log_probs():
    action, log_prob = policies.sample_and_log_prob(jnp.zeros((5, 4)), jax.random.key(0))
    assert action.shape == (5, 2)
    # log N(z) - log(1 - tanh(z)^2), summed over the two dimensions
    z = np.arctanh(np.asarray(action, np.float64))
    expected = -0.5 * z**2 - 0.918939 - np.log(1 - np.tanh(z) ** 2)
    np.testing.assert_allclose(log_prob, expected.sum(axis=1), atol=1e-4)


def test_an_action_lies_so_many_standard_deviations_from_the_mean():
    mean, std = np.array([[0.3, -1.2]]), np.array([[0.5, 1.4]])
    noise = np.array([[1.0, -2.0]])
    gaussian = distrax.MultivariateNormalDiag(jnp.float32(mean), jnp.float32(std))
    action, log_prob = policies.at(gaussian, jnp.float32(noise))
    z = mean + std * noise
    np.testing.assert_allclose(action, np.tanh(z), rtol=1e-5)
    density = -0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(z) ** 2)
    np.testing.assert_allclose(log_prob, density.sum(axis=1), rtol=1e-4)


def test_samples_are_the_actions_at_standard_normal_noise():
    network, key = outputs([0.4, -0.3], [-0.5, 0.2]), jax.random.key(3)
    gaussian = distrax.MultivariateNormalDiag(network[:2], jnp.exp(network[2:]))
    expected = policies.at(gaussian, jax.random.normal(key, (2,)))
    for found, desired in zip(policies.sample_and_log_prob(network, key), expected):
        np.testing.assert_allclose(found, desired, rtol=1e-6)
