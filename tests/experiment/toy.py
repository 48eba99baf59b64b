"""An environment that exists on the host and as pure functions, and an agent to act in it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from agents.base import Agent, reactive
from envs import FunctionalEnv, register, terminations
from tests.integration import tiny


class ClockState(NamedTuple):
    draw: jax.Array  # []
    time: jax.Array  # int32 []


def clock(steps, terminates):
    """Returns `tiny.Clock` as pure functions."""

    def observation(state):
        return jnp.stack([state.draw, state.time.astype(jnp.float32)])

    def reset(key):
        state = ClockState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return state, observation(state)

    def step(state, action):
        state = state._replace(time=state.time + 1)
        over = (state.time == steps).astype(jnp.float32)
        reward = state.time.astype(jnp.float32)
        return state, observation(state), reward, over * terminates, over * (not terminates)

    return FunctionalEnv(reset, step, steps)


def register_functional(name, env):
    """Registers pure functions with the spaces of `tiny.Clock`, a host version of which they have.

    Returns:
      The id.
    """
    register(
        name,
        termination=terminations.never,
        make=lambda: tiny.Clock(env.max_steps, terminates=False),
        functional=env,
    )
    return name


def agent(act=lambda policy, observations: observations[:, 1:], action=0.5):
    """Returns an agent whose state is the number of its steps, and its policy as well."""

    def step(state, transition, next_observation):
        return state + 1, jnp.full((1,), action), {"policy/steps": state}

    return Agent(
        init=lambda key: jnp.zeros(()),
        explore=lambda state, observation: (state, jnp.full((1,), action)),
        observe=lambda state, transition: state + 1,
        step=step,
        refresh=(),
        policy=lambda state: state,
        act=reactive(act),
        refresh_every=0,
    )
