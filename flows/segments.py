"""Matched data for the flows: real segments, and model segments from the same first states.

Without the matching, the difference between "anywhere in the replay" and "k steps after a replay
state" would count as model error. A segment ends where its episode does: after a termination, which
is the model's own on its side, and after a truncation, which no model predicts and which therefore
ends the model's segment at the same step.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from models.rollout import Simulate
from replay import ReplayState, Transition, buffer

CHUNK_LENGTHS = 4  # a chunk is this many horizons long, so 3/4 of its steps can start a segment
HELD_OUT_EVERY = 5  # one chunk in five is held out


class Segments(NamedTuple):
    """Consecutive steps; step t of a segment is part of it where `valid`."""

    transition: Transition  # [N, H, ...]
    valid: chex.Array  # bool [N, H]
    not_truncated: chex.Array  # bool [N, H], no time limit cut the real segment before this step


class Pool(NamedTuple):
    """Rows without gaps, to draw minibatches from."""

    z: chex.Array  # [R, D]
    size: chex.Array  # int32 [], the first `size` rows count

    def draw(self, key: chex.PRNGKey, n: int) -> chex.Array:
        """Draws rows [n, D] with replacement; zeros from an empty pool. Consumes `key`."""
        rows = self.z[jax.random.randint(key, (n,), 0, jnp.maximum(self.size, 1))]
        return jnp.where(self.size > 0, rows, 0.0)


def slots(
    key: chex.PRNGKey,
    replay: ReplayState,
    n: int,
    *,
    horizon: int,
    length: int,
    recency: int,
    held_out: bool | None = None,
) -> tuple[chex.Array, chex.Array]:
    """Draws where in the replay segments of `length` steps start.

    The ring is cut into chunks of `CHUNK_LENGTHS * horizon` slots. Every fifth chunk is held out
    for the whole run, and no segment crosses from one chunk into another, so held-out and training
    segments share no transition; with `held_out` None, both kinds are drawn. Only the newest
    `recency` transitions are used.

    Returns:
      Slots int32 [n], with replacement, and bool [], whether there is any such segment; if not, the
      slots mean nothing. Consumes `key`.
    """
    chunk = CHUNK_LENGTHS * horizon
    slot = jnp.arange(replay.capacity)
    age = (replay.position - 1 - slot) % replay.capacity
    recent = (age < jnp.minimum(replay.size, recency)) & (age >= length - 1)
    inside = (slot % chunk <= chunk - length) & (slot + length <= replay.capacity)
    is_held_out = slot // chunk % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    own = True if held_out is None else is_held_out == held_out
    count = jnp.cumsum(recent & inside & own)
    draw = jax.random.randint(key, (n,), 1, jnp.maximum(count[-1], 1) + 1)
    return jnp.searchsorted(count, draw).astype(jnp.int32), count[-1] > 0


def real_segments(
    key: chex.PRNGKey,
    replay: ReplayState,
    n: int,
    *,
    horizon: int,
    recency: int,
    held_out: bool | None = None,
) -> Segments:
    """Draws n real segments of up to `horizon` steps; consumes `key`.

    All of them are invalid if the replay is too small to have one (see `slots`).
    """
    start, found = slots(
        key, replay, n, horizon=horizon, length=horizon, recency=recency, held_out=held_out
    )
    steps = jnp.minimum(start[:, None] + jnp.arange(horizon)[None], replay.capacity - 1)
    transition = buffer.gather_slots(replay, steps)
    not_truncated = found & _none_before(transition.truncated)
    return Segments(transition, not_truncated & _none_before(transition.terminated), not_truncated)


def model_segments(simulate: Simulate, real: Segments, key: chex.PRNGKey) -> Segments:
    """Runs model and policy from the first states of `real`, for as many steps; consumes `key`.

    A segment ends early where the model terminates or predicts a number that is not finite.
    """
    horizon = real.valid.shape[1]

    def step(carry: tuple[chex.Array, chex.Array], key: chex.PRNGKey):
        observation, alive = carry
        transition = simulate(observation, key)
        alive &= jnp.isfinite(transition.next_observation).all(axis=-1)
        alive &= jnp.isfinite(transition.reward)
        over = transition.terminated > 0
        return (transition.next_observation, alive & ~over), (transition, alive)

    start = (real.transition.observation[:, 0], real.valid[:, 0])
    _, (transition, alive) = jax.lax.scan(step, start, jax.random.split(key, horizon))
    transition, alive = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (transition, alive))
    return Segments(transition, alive & real.not_truncated, real.not_truncated)


def pool(z: chex.Array, valid: chex.Array) -> Pool:
    """Packs the valid rows of z [..., D] to the front."""
    z, valid = z.reshape(-1, z.shape[-1]), valid.reshape(-1).astype(jnp.int32)
    slot = jnp.where(valid, jnp.cumsum(valid) - 1, len(z))  # out of bounds: dropped by the scatter
    return Pool(jnp.zeros_like(z).at[slot].set(z, mode="drop"), valid.sum())


def _none_before(event: chex.Array) -> chex.Array:
    """Whether no step before this one, in [N, H], has the event."""
    happened = jnp.cumsum(event, axis=1) - event
    return happened == 0
