"""The homework's rewards on states whose reward is worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from envs import spec
from envs.cs285 import rewards


def of_state(env_id: str, state: jnp.ndarray) -> jnp.ndarray:
    """The reward of arriving in a state; what was before, and the action, must not matter."""
    env_spec = spec(env_id)
    action = jnp.full((*state.shape[:-1], env_spec.action_size), jnp.nan)
    return env_spec.reward(jnp.full(state.shape, jnp.nan), action, state)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, 0.0),
        ({9: 2.0, 6: 0.3}, -8.0),
        ({6: 0.2}, 0.0),
        ({7: 1e-6}, -10.0),
        ({8: 1e-6}, -10.0),
        ({9: -1.5, 6: 0.21, 7: 0.1, 8: 0.1}, -31.5),
        ({6: -1.0, 7: -1.0, 8: -1.0, 3: 1.0, 4: 1.0, 5: 1.0, 0: 9.0}, 0.0),
    ],
)
def test_cheetah(entries: dict[int, float], expected: float) -> None:
    state = np.zeros(21, np.float32)
    state[list(entries)] = list(entries.values())
    assert of_state("cheetah-cs285-v0", jnp.asarray(state)) == pytest.approx(expected)
    assert sum(rewards.cheetah_terms(state).values()) == pytest.approx(expected)


def test_obstacles_pays_minus_the_distance() -> None:
    state = jnp.array([0.4, -0.4, 0.7, -0.8])
    assert of_state("obstacles-cs285-v0", state) == pytest.approx(-0.5)


def test_reacher_pays_minus_ten_times_the_distance() -> None:
    state = jnp.zeros(20).at[14:17].set(jnp.array([0.821, -0.6, 0.0])).at[17:].set(0.1)
    distance = np.sqrt(0.721**2 + 0.7**2 + 0.1**2)
    assert of_state("reacher-cs285-v0", state) == pytest.approx(-10.0 * distance)
    assert -10.0 * distance == pytest.approx(-10.0987, abs=1e-4)


@pytest.mark.parametrize("env_id", ["cheetah-cs285-v0", "obstacles-cs285-v0", "reacher-cs285-v0"])
def test_batches_are_rewarded_row_by_row(env_id: str) -> None:
    generator = np.random.default_rng(0)
    states = jnp.asarray(generator.normal(size=(3, 4, spec(env_id).observation_size)), jnp.float32)
    batched = of_state(env_id, states)
    assert batched.dtype == jnp.float32
    rows = [[of_state(env_id, states[e, n]) for n in range(4)] for e in range(3)]
    np.testing.assert_allclose(batched, rows, rtol=1e-6)
    assert len(np.unique(batched)) == 12
