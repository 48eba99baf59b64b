"""Diagonal Gaussians over action sequences: what cross-entropy methods draw from and fit."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from planners.base import SearchSpace

TRUNCATION = 2.0  # standard deviations (PETS)
INITIAL_STD = 0.25  # of the distance between the bounds (PETS)


class Gaussian(NamedTuple):
    """An independent Gaussian per time step and action dimension."""

    mean: chex.Array  # [H, A]
    variance: chex.Array  # [H, A]


class Elites(NamedTuple):
    """The best candidates, best first."""

    actions: chex.Array  # [k, H, A]
    returns: chex.Array  # [k]; -inf: not a valid candidate


def broad(space: SearchSpace, mean: chex.Array) -> Gaussian:
    """Returns the Gaussian around `mean` [H, A] that a search starts from."""
    variance = jnp.square(INITIAL_STD * (space.high - space.low))
    return Gaussian(mean, jnp.broadcast_to(variance, mean.shape))


def sample_clipped(
    key: chex.PRNGKey, gaussian: Gaussian, space: SearchSpace, num: int
) -> chex.Array:
    """Draws `num` sequences [num, H, A], moved onto the bounds where outside. Consumes `key`."""
    return scaled(jax.random.normal(key, (num, *gaussian.mean.shape)), gaussian, space)


def sample_truncated(
    key: chex.PRNGKey, gaussian: Gaussian, space: SearchSpace, num: int
) -> chex.Array:
    """Draws `num` sequences [num, H, A] from truncated Gaussians. Consumes `key`.

    The variance is limited such that the truncation, at two standard deviations, is within the
    bounds (PETS).
    """
    to_bound = jnp.minimum(gaussian.mean - space.low[None], space.high[None] - gaussian.mean)
    limited = jnp.minimum(gaussian.variance, jnp.square(to_bound / TRUNCATION))
    shape = (num, *gaussian.mean.shape)
    noise = jax.random.truncated_normal(key, -TRUNCATION, TRUNCATION, shape)
    return scaled(noise, Gaussian(gaussian.mean, limited), space)


def scaled(noise: chex.Array, gaussian: Gaussian, space: SearchSpace) -> chex.Array:
    """Returns sequences [N, H, A] within the bounds: `noise` in units of the Gaussian."""
    return space.clip(gaussian.mean[None] + jnp.sqrt(gaussian.variance)[None] * noise)


def select(candidates: chex.Array, returns: chex.Array, num: int) -> Elites:
    """Returns the `num` best of candidates [N, H, A] by their returns [N]."""
    best, index = jax.lax.top_k(returns, num)
    return Elites(candidates[index], best)


def refit(gaussian: Gaussian, elites: Elites, smoothing: chex.Numeric) -> Gaussian:
    """Moves the Gaussian towards the elites' mean and (population) variance.

    Args:
      gaussian: before.
      elites: k of them; those with a return of -inf do not count, and if none counts the result is
        `gaussian`.
      smoothing: weight of the elites' moments, in [0, 1]; the previous ones have the rest.
    """
    valid = jnp.isfinite(elites.returns)
    weight = valid / jnp.maximum(valid.sum(), 1)
    mean = jnp.einsum("k,kha->ha", weight, elites.actions)
    variance = jnp.einsum("k,kha->ha", weight, jnp.square(elites.actions - mean[None]))
    rate = jnp.where(valid.any(), smoothing, 0.0)
    return jax.tree.map(
        lambda new, old: rate * new + (1.0 - rate) * old, Gaussian(mean, variance), gaussian
    )


def mean_return(elites: Elites) -> chex.Array:
    """Returns the mean of the valid elites' returns; -inf if there is none."""
    valid = jnp.isfinite(elites.returns)
    mean = jnp.where(valid, elites.returns, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    return jnp.where(valid.any(), mean, -jnp.inf)
