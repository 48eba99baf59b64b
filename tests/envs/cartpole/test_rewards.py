"""The swing-up's reward by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from envs.cartpole import rewards


@pytest.mark.parametrize(
    ("position", "angle", "action", "expected"),
    [
        (0.0, np.pi, 0.0, 1.0),  # balanced in the middle
        (0.0, 0.0, 0.0, np.exp(-4.0)),  # hanging: 1.2 m below
        (0.6, np.pi, 0.0, np.exp(-1.0)),  # balanced, 0.6 m beside
        (0.6, np.pi / 2, 0.0, np.exp(-1.0)),  # horizontal, tip at the middle of the rail
        (0.0, -np.pi, 0.5, 1.0 - 0.01 * 1.5**2),
    ],
)
def test_swing_up(position: float, angle: float, action: float, expected: float) -> None:
    state = jnp.array([position, angle, jnp.nan, jnp.nan])
    before = jnp.full(4, jnp.nan)
    assert rewards.pets(before, jnp.array([action]), state) == pytest.approx(expected, abs=1e-6)
