"""The reward of the swing-up, for its simulator and for planners.

This module does not import MuJoCo, because programs choose its renderer before it is imported.
"""

from types import ModuleType

import chex
import jax.numpy as jnp

POLE_LENGTH = 0.6  # metres
MAX_CONTROL = 3.0
CONTROL_COST = 0.01


def pets(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """cartpole-pets-v0: `swing_up` after the step, for actions in [-1, 1]."""
    del observation
    return swing_up(jnp, MAX_CONTROL * action, next_observation)


def swing_up(xp: ModuleType, control: chex.Array, observation: chex.Array) -> chex.Array:
    """How near the pole's tip is to where it is when it balances in the middle, minus control cost.

    `exp(-d^2 / 0.6^2) - 0.01 control^2`, with d from the tip to the point 0.6 m above the middle.

    Args:
      xp: `numpy` or `jax.numpy`, of which the arrays are.
      control: [..., 1] in [-3, 3].
      observation: [..., 4], position and angle (0 hanging) and their velocities.

    Returns:
      The reward [...].
    """
    position, angle = observation[..., 0], observation[..., 1]
    right = position - POLE_LENGTH * xp.sin(angle)
    above = -POLE_LENGTH * xp.cos(angle) - POLE_LENGTH
    closeness = xp.exp(-(right**2 + above**2) / POLE_LENGTH**2)
    return closeness - CONTROL_COST * (control**2).sum(-1)
