"""The range that values are scaled to and clipped at (Kubo et al. 2025, arXiv 2512.15439).

A value lies between the smallest and the largest reward divided by 1 - discount. Both are estimated
by quantiles of a batch, entropy bonus included, and followed slowly. Since 0 is the value after a
termination it is always within: on Hopper, whose reward has a bonus for standing, the low quantile
alone is above the value of falling states.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

QUANTILES = (0.01, 0.99)
RATE = 3e-4  # of following, per update; released code
SMALLEST_SCALE = 1e-8  # keeps outputs finite where every reward is 0


class Bounds(NamedTuple):
    """Lowest and highest value."""

    low: chex.Array  # [...], at most 0
    high: chex.Array  # [...], at least 0

    @property
    def scale(self) -> chex.Array:
        """Half the width, positive."""
        return jnp.maximum(0.5 * (self.high - self.low), SMALLEST_SCALE)

    @property
    def shift(self) -> chex.Array:
        """The middle."""
        return 0.5 * (self.high + self.low)

    def clip(self, value: chex.Array) -> chex.Array:
        """Returns values [...] within the bounds, which are scalars."""
        return jnp.clip(value, self.low, self.high)


def initial() -> Bounds:
    """Returns the bounds before the first batch, which replaces them."""
    return Bounds(-jnp.ones(()), jnp.ones(()))


def follow(
    bounds: Bounds, soft_reward: chex.Array, alive: chex.Array, discount: float, first: chex.Array
) -> Bounds:
    """Moves the bounds towards those of a batch.

    Args:
      bounds: scalars.
      soft_reward: [H, B], rewards minus alpha log pi.
      alive: [H, B]; rewards count where it is positive.
      discount: below 1.
      first: bool [], whether this is the first batch, which sets the bounds.
    """
    chex.assert_equal_shape([soft_reward, alive])
    counted = jnp.where(alive > 0, soft_reward, jnp.nan)
    low, high = jnp.nanquantile(counted, jnp.array(QUANTILES)) / (1.0 - discount)
    rate = jnp.where(first, 1.0, RATE)
    return Bounds(
        bounds.low + rate * (jnp.minimum(low, 0.0) - bounds.low),
        bounds.high + rate * (jnp.maximum(high, 0.0) - bounds.high),
    )
