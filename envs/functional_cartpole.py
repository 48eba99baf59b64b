"""CartPole-v1 as pure functions: Gymnasium's JAX version of it, with one constant corrected.

It computes in float32, Gymnasium's `CartPole-v1` in float64. The pole falls away from the upright
by a factor e about four times a second, and so do the two trajectories from each other.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional, CartPoleParams

from envs import rewards
from envs.functional import FunctionalEnv

MAX_STEPS = 500  # `gymnasium.spec("CartPole-v1").max_episode_steps`

# Gymnasium 1.4 has the sum of the two here, 0.6 instead of 0.05.
_PARAMS = CartPoleParams(polemass_length=CartPoleParams.masspole * CartPoleParams.length)
_PHYSICS = CartPoleFunctional()


class CartPoleState(NamedTuple):
    """The physics of one cart and where its episode is."""

    physics: chex.Array  # [4]: position, velocity, angle, angular velocity
    steps: chex.Array  # int32 [], since the reset


def _reset(key: chex.PRNGKey) -> tuple[CartPoleState, chex.Array]:
    physics = _PHYSICS.initial(key, _PARAMS).astype(jnp.float32)  # also where JAX has float64
    return CartPoleState(physics, jnp.zeros((), jnp.int32)), physics


def _step(state: CartPoleState, action: chex.Array):
    physics = _PHYSICS.transition(state.physics, jnp.argmax(action), None, _PARAMS)
    terminated = _PHYSICS.terminal(physics, None, _PARAMS)
    steps = state.steps + 1
    truncated = steps >= MAX_STEPS
    reward = rewards.one_per_step(state.physics, action, physics)
    ends = terminated.astype(jnp.float32), truncated.astype(jnp.float32)
    return CartPoleState(physics, steps), physics, reward, *ends


cartpole = FunctionalEnv(_reset, _step, MAX_STEPS)
