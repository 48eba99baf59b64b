"""Noise on what a model is fitted to, as in CS285's homework 4 (2021 and 2022, `add_sl_noise`).

It is drawn once for every transition, when that enters a fit for the first time, and stays. What
else is done with the data sees them clean: the noise is in a copy of the replay.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from replay import ReplayState, Transition, buffer

SMALLEST_MEAN = 1e-6  # takes the place of a mean that is 0 (the homework's code)


class NoisyCopy(struct.PyTreeNode):
    """The replay with noise, as of the last fit."""

    replay: ReplayState
    env_steps: chex.Array  # int32 [], transitions ever stored by then


class TrainingData(NamedTuple):
    """The functions that make a model's training data of the replay.

    Attributes:
      init: `(replay) -> state`, for an empty replay.
      update: `(state, replay, env_steps, key) -> (state, replay to fit)`. `env_steps` (int32 [])
        is how many transitions were ever stored. Consumes the key.
    """

    init: Callable[[ReplayState], Any]
    update: Callable[..., tuple[Any, ReplayState]]


def make_training_data(scale: float) -> TrainingData:
    """Builds the training data whose noise has `scale` times the mean as standard deviation."""
    if not scale:  # no copy
        return TrainingData(lambda replay: (), lambda state, replay, env_steps, key: ((), replay))

    def init(replay: ReplayState) -> NoisyCopy:
        return NoisyCopy(jax.tree.map(jnp.copy, replay), jnp.zeros((), jnp.int32))

    def update(
        state: NoisyCopy, replay: ReplayState, env_steps: chex.Array, key: chex.PRNGKey
    ) -> tuple[NoisyCopy, ReplayState]:
        age = (replay.position - 1 - jnp.arange(replay.capacity)) % replay.capacity
        new = age < jnp.minimum(env_steps - state.env_steps, replay.size)
        rows, _ = buffer.contents(replay)
        noisy = buffer.with_contents(replay, add_noise(rows, new, scale, key))
        noisy = noisy.replace(rows=jnp.where(new[:, None], noisy.rows, state.replay.rows))
        return NoisyCopy(noisy, env_steps), noisy

    return TrainingData(init, update)


def add_noise(rows: Transition, new: chex.Array, scale: float, key: chex.PRNGKey) -> Transition:
    """Adds independent noise to observations and next observations; consumes `key`.

    Args:
      rows: [N, ...].
      new: bool [N], the rows of which the mean is taken.
      scale: standard deviation of the noise, as a fraction of the dimension's mean.
      key: of the draws.
    """

    def noisy(x: chex.Array, key: chex.PRNGKey) -> chex.Array:
        mean = jnp.where(new[:, None], x, 0.0).sum(axis=0) / jnp.maximum(new.sum(), 1)
        std = scale * jnp.where(mean == 0.0, SMALLEST_MEAN, jnp.abs(mean))
        return x + std[None] * jax.random.normal(key, x.shape)

    observation_key, next_key = jax.random.split(key)
    return rows._replace(
        observation=noisy(rows.observation, observation_key),
        next_observation=noisy(rows.next_observation, next_key),
    )
