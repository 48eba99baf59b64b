"""Z-scoring of network inputs and regression targets with the statistics of the replay."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

SMALLEST_STD = 1e-6  # below it a dimension is constant up to float32 rounding, and is left unscaled


class Normalizer(NamedTuple):
    """Per-dimension statistics."""

    mean: chex.Array  # [D]
    std: chex.Array  # [D], positive

    def normalize(self, x: chex.Array) -> chex.Array:
        """Maps raw x [..., D] to zero mean and unit variance."""
        return (x - self.mean) / self.std

    def denormalize(self, x: chex.Array) -> chex.Array:
        """Inverse of `normalize`."""
        return x * self.std + self.mean


def identity(size: int) -> Normalizer:
    """Returns the normaliser that changes nothing, for vectors of `size` entries."""
    return Normalizer(jnp.zeros(size), jnp.ones(size))


def fit(x: chex.Array, mask: chex.Array) -> Normalizer:
    """Returns the mean and unbiased std of the rows of x [N, D] whose mask [N] is set.

    Two passes, so that a large offset costs no precision. Dimensions whose std is below
    `SMALLEST_STD`, relative to their magnitude if that exceeds 1, get std 1.
    """
    weight = mask.astype(x.dtype)[:, None]
    count = jnp.maximum(weight.sum(), 2.0)
    mean = (weight * x).sum(axis=0) / count
    std = jnp.sqrt((weight * jnp.square(x - mean)).sum(axis=0) / (count - 1.0))
    constant = std < SMALLEST_STD * jnp.maximum(1.0, jnp.abs(mean))
    return Normalizer(mean, jnp.where(constant, 1.0, std))
