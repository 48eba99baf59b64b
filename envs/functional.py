"""Environments as pure functions: acting in them can be part of a compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

FunctionalState = Any
"""A pytree of arrays: the physics, the steps since the reset (int32 []), keys of its own."""


class FunctionalEnv(NamedTuple):
    """One environment; `jax.vmap` of its functions gives several.

    A step after the end of an episode means nothing: `reset` has to come first. A time limit
    reached by a step that terminates is reported as well, as Gymnasium does.
    """

    reset: Callable[[chex.PRNGKey], tuple[FunctionalState, chex.Array]]
    """`(key) -> state, observation [O]` (float32); consumes the key."""

    step: Callable[
        [FunctionalState, chex.Array],
        tuple[FunctionalState, chex.Array, chex.Array, chex.Array, chex.Array],
    ]
    """`(state, action [A]) -> state, observation [O], reward [], terminated [], truncated []`.

    All float32. Actions are those of agents: in [-1, 1], or one-hot.
    """

    max_steps: int  # the time limit


class NoisyState(NamedTuple):
    """State of an environment with distracting noise."""

    environment: FunctionalState
    key: chex.PRNGKey  # of the numbers to come


def with_noise(env: FunctionalEnv, size: int) -> FunctionalEnv:
    """Appends `size` standard normal numbers, new at every reset and step, to the observation."""

    def beside(state: FunctionalState, observation: chex.Array, key: chex.PRNGKey):
        key, number_key = jax.random.split(key)
        numbers = jax.random.normal(number_key, (size,), jnp.float32)
        return NoisyState(state, key), jnp.concatenate([observation, numbers])

    def reset(key: chex.PRNGKey):
        environment_key, noise_key = jax.random.split(key)
        return beside(*env.reset(environment_key), noise_key)

    def step(state: NoisyState, action: chex.Array):
        environment_state, observation, *others = env.step(state.environment, action)
        return *beside(environment_state, observation, state.key), *others

    return FunctionalEnv(reset, step, env.max_steps)


DISTRACTED: dict[str, Callable[[FunctionalEnv, int], FunctionalEnv]] = {"noise": with_noise}
"""The kinds of distracting dimensions (`envs.distractors.KINDS`) that exist as pure functions."""
