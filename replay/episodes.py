"""Where in its episode a stored transition lies."""

import chex
import jax
import jax.numpy as jnp

from replay import buffer
from replay.buffer import ReplayState


def steps_in_episode(state: ReplayState) -> chex.Array:
    """Returns how many steps of its episode came before each slot's transition, int32 [capacity].

    Of the oldest episode, whose beginning may have been overwritten, steps are counted from the
    first that is left. Slots without data have -1. Items are Transitions stored one after another.
    """
    age_order = (state.position - state.size + jnp.arange(state.capacity)) % state.capacity
    stored, _ = buffer.contents(state)
    ended = ((stored.terminated > 0) | (stored.truncated > 0))[age_order]
    begins = jnp.concatenate([jnp.ones(1, bool), ended[:-1]])
    time = jnp.arange(state.capacity)
    step = time - jax.lax.cummax(jnp.where(begins, time, 0))
    step = jnp.where(time < state.size, step, -1)
    return jnp.zeros_like(step).at[age_order].set(step, unique_indices=True)


def sample_early(state: ReplayState, key: chex.PRNGKey, n: int, steps: int) -> chex.Array:
    """Draws observations [n, O] uniformly from the first `steps` of all episodes; consumes `key`.

    An empty replay gives zeros.
    """
    step = steps_in_episode(state)
    early = jnp.cumsum((step >= 0) & (step < steps))
    draw = jax.random.randint(key, (n,), 1, jnp.maximum(early[-1], 1) + 1)
    slots = jnp.searchsorted(early, draw)
    return buffer.gather_slots(state, slots.astype(jnp.int32)).observation
