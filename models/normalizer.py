"""Z-scoring of network inputs and regression targets with the statistics of the replay."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

SMALLEST_STD = 1e-6  # below it a dimension is constant up to float32 rounding, and is left unscaled


class Normalizer(NamedTuple):
    """Per-dimension statistics."""

    mean: chex.Array  # [D]
    std: chex.Array  # [D], positive

    @property
    def constant(self) -> chex.Array:
        """Which dimensions were constant, bool [D]: a measured std is hardly ever exactly 1."""
        return self.std == 1.0

    def normalize(self, x: chex.Array) -> chex.Array:
        """Maps raw x [..., D] to zero mean and unit variance."""
        mean, std = (jnp.broadcast_to(value, x.shape) for value in self)
        return (x - mean) / std

    def denormalize(self, x: chex.Array) -> chex.Array:
        """Inverse of `normalize`."""
        mean, std = (jnp.broadcast_to(value, x.shape) for value in self)
        return x * std + mean


def identity(size: int) -> Normalizer:
    """Returns the normaliser that changes nothing, for vectors of `size` entries."""
    return Normalizer(jnp.zeros(size), jnp.ones(size))


def fit(x: chex.Array, mask: chex.Array) -> Normalizer:
    """Returns the mean and unbiased std of the rows of x [N, D] whose mask [N] is set.

    Two passes, so that a large offset costs no precision. Dimensions whose std is below
    `SMALLEST_STD`, relative to their magnitude if that exceeds 1, get std 1.
    """
    rows, count = mask[:, None], mask.sum().astype(x.dtype)
    mean = jnp.where(rows, x, 0.0).sum(axis=0) / jnp.maximum(count, 1.0)
    squares = jnp.square(jnp.where(rows, x - mean[None], 0.0)).sum(axis=0)
    std = jnp.sqrt(squares / jnp.maximum(count - 1.0, 1.0))
    constant = std < SMALLEST_STD * jnp.maximum(1.0, jnp.abs(mean))
    return Normalizer(mean, jnp.where(constant, 1.0, std))
