"""What agents share."""

import jax
import jax.numpy as jnp

from agents.base import periodically


def test_every_third_step_updates_and_its_metrics_stand_for_three():
    def update(state):
        return state + 10, {"loss": jnp.float32(5.0)}

    step = jax.jit(lambda state, k: periodically(3, k, update, state))
    states, losses, state = [], [], jnp.int32(0)
    for k in range(1, 7):
        state, metrics = step(state, k)
        states.append(int(state))
        losses.append(float(metrics["loss"]))
    assert states == [0, 0, 10, 10, 10, 20]
    assert losses == [0.0, 0.0, 15.0, 0.0, 0.0, 15.0]


def test_seeds_side_by_side_update_at_the_same_steps():
    def update(state):
        return 2 * state, {"loss": state}

    both = jax.vmap(lambda state, k: periodically(2, k, update, state), (0, None))
    state, metrics = both(jnp.array([3.0, 4.0]), 1)
    assert (state.tolist(), metrics["loss"].tolist()) == ([3.0, 4.0], [0.0, 0.0])
    state, metrics = both(state, 2)
    assert (state.tolist(), metrics["loss"].tolist()) == ([6.0, 8.0], [6.0, 8.0])
