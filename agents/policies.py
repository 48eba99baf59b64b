"""The squashed Gaussian policy (Haarnoja et al. 2018a, appendix C): a = tanh(z), z Gaussian.

A network gives `outputs` [..., 2A]: means, then log standard deviations.
"""

import chex
import distrax
import jax
import jax.numpy as jnp

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # bounds of the original SAC code


def sample_and_log_prob(outputs: chex.Array, key: chex.PRNGKey) -> tuple[chex.Array, chex.Array]:
    """Draws actions [..., A] in [-1, 1], reparameterised, with their log-probabilities [...].

    Consumes `key`.
    """
    gaussian = _gaussian(outputs)
    return at(gaussian, jax.random.normal(key, gaussian.loc.shape))


def at(
    gaussian: distrax.MultivariateNormalDiag, noise: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Returns the actions [..., A] so many standard deviations from the mean, and log-densities."""
    z = gaussian.loc + gaussian.scale_diag * noise
    return jnp.tanh(z), squashed_log_prob(gaussian, z)


def log_prob(outputs: chex.Array, z: chex.Array) -> chex.Array:
    """Returns the log-density [...], in nats, of the actions tanh(z), given z [..., A]."""
    return squashed_log_prob(_gaussian(outputs), z)


def squashed_log_prob(gaussian: distrax.MultivariateNormalDiag, z: chex.Array) -> chex.Array:
    """Returns the log-density [...], in nats, of tanh(z) where z [..., A] is Gaussian.

    Taking z instead of the action keeps it exact where tanh saturates.
    """
    log_det = distrax.Tanh().forward_log_det_jacobian(z).sum(axis=-1)
    return gaussian.log_prob(z) - log_det


def greedy(outputs: chex.Array) -> chex.Array:
    """Returns the action tanh(mean) [..., A]."""
    mean, _ = jnp.split(outputs, 2, axis=-1)
    return jnp.tanh(mean)


def _gaussian(outputs: chex.Array) -> distrax.MultivariateNormalDiag:
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    std = jnp.exp(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
    return distrax.MultivariateNormalDiag(mean, std)
