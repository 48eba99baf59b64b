"""The range of values against quantiles computed by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import value_bounds
from agents.value_bounds import Bounds

DISCOUNT = 0.9


def batch(offset=0.0):
    """Soft rewards [H, B] around an offset, of which some do not count: they are large."""
    rng = np.random.default_rng(0)
    reward = rng.normal(offset, 1.0, size=(5, 60)).astype(np.float32)
    alive = (rng.uniform(size=reward.shape) < 0.7).astype(np.float32)
    return np.where(alive > 0, reward, 1e6 * np.sign(reward - offset)), alive


def follow(bounds, reward, alive, first):
    return jax.jit(value_bounds.follow, static_argnums=3)(
        bounds, jnp.float32(reward), jnp.float32(alive), DISCOUNT, jnp.asarray(first)
    )


def quantiles(reward, alive):
    """1 % and 99 % of what counts, as values."""
    return np.quantile(reward[alive > 0], [0.01, 0.99]) / (1 - DISCOUNT)


def test_the_first_batch_sets_the_bounds_to_its_quantiles_and_dead_rows_are_ignored():
    reward, alive = batch()
    found = follow(Bounds(jnp.float32(-7.0), jnp.float32(9.0)), reward, alive, True)
    low, high = quantiles(reward, alive)
    assert low < -10.0
    assert high > 10.0
    np.testing.assert_allclose(found, [low, high], rtol=1e-4)


def test_later_batches_move_them_slowly():
    reward, alive = batch()
    found = follow(Bounds(jnp.float32(-7.0), jnp.float32(900.0)), reward, alive, False)
    low, high = quantiles(reward, alive)
    expected = [-7.0 + 3e-4 * (low + 7.0), 900.0 + 3e-4 * (high - 900.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("offset", [20.0, -20.0])
def test_zero_is_within_whatever_the_rewards_are(offset):
    reward, alive = batch(offset)
    found = follow(value_bounds.initial(), reward, alive, True)
    low, high = quantiles(reward, alive)
    np.testing.assert_allclose(found, [min(low, 0.0), max(high, 0.0)], rtol=1e-4)
    assert (found.low == 0.0) == (offset > 0)
    assert (found.high == 0.0) == (offset < 0)


def test_values_are_scaled_to_the_bounds_and_clipped_at_them():
    bounds = Bounds(jnp.float32(-2.0), jnp.float32(6.0))
    assert float(bounds.scale) == 4.0  # half the width
    assert float(bounds.shift) == 2.0
    clipped = bounds.clip(jnp.array([-3.0, -2.0, 0.5, 6.0, 7.0]))
    np.testing.assert_array_equal(clipped, [-2.0, -2.0, 0.5, 6.0, 6.0])


def test_a_world_without_rewards_has_a_scale_that_can_be_divided_by():
    zeros = np.zeros((2, 3))
    found = follow(value_bounds.initial(), zeros, np.ones((2, 3)), True)
    np.testing.assert_array_equal(found, [0.0, 0.0])
    assert 0.0 < float(found.scale) < 1e-6
