"""When an episode ends: each function repeats the termination rule of one Gymnasium environment.

Every function has the type `spec.TerminationFn`: `(observation [..., O], action [..., A],
next_observation [..., O]) -> terminated [...]` (bool). All but `never` look only at the next
observation. Lengths are in metres, angles in radians, velocities in metres or radians per second.

Source: the `step` and `is_healthy` methods in `gymnasium/envs/mujoco/*_v4.py` and `*_v5.py`, and
`gymnasium/envs/classic_control/cartpole.py` (Gymnasium 1.4). Versions 4 and 5 share every rule, so
one function serves both. A rule is written as "not healthy" because comparisons with NaN are false:
a state that is not a number terminates.
"""

import math

import chex
import jax.numpy as jnp

HOPPER_MIN_HEIGHT = 0.7
HOPPER_MAX_ANGLE = 0.2
HOPPER_MAX_STATE = 100.0
WALKER2D_HEIGHT_RANGE = (0.8, 2.0)
WALKER2D_MAX_ANGLE = 1.0
ANT_HEIGHT_RANGE = (0.2, 1.0)
ANT_STATE_SIZE = 27  # qpos[2:] (13) and qvel (14)
HUMANOID_HEIGHT_RANGE = (1.0, 2.0)
INVERTED_PENDULUM_MAX_ANGLE = 0.2
DOUBLE_PENDULUM_POLE_LENGTH = 0.6  # `inverted_double_pendulum.xml`, both poles
DOUBLE_PENDULUM_MIN_TIP_HEIGHT = 1.0
CARTPOLE_MAX_POSITION = 2.4
CARTPOLE_MAX_ANGLE = math.radians(12.0)


def never(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """No state is terminal: Pendulum, HalfCheetah, Swimmer, Reacher, Pusher."""
    del observation, action
    return jnp.zeros(next_observation.shape[:-1], dtype=bool)


def inverted_pendulum(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The pole leans more than 0.2 rad, or a state is not finite; O = 4."""
    del observation, action
    upright = jnp.abs(next_observation[..., 1]) <= INVERTED_PENDULUM_MAX_ANGLE
    return ~(_finite(next_observation) & upright)


def inverted_double_pendulum(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The tip of the second pole is at most 1 m above the cart; O = 9 (version 5), 11 (version 4).

    The angles are observed as `[x, sin a, sin b, cos a, cos b, ...]`, where b is relative to the
    first pole, so the tip is at `0.6 cos(a) + 0.6 cos(a + b)`. The simulator reads the tip
    before the last integration stage, which moves it by up to 6e-5 m from this height.
    """
    del observation, action
    sin_a, sin_b, cos_a, cos_b = (next_observation[..., i] for i in range(1, 5))
    tip_height = DOUBLE_PENDULUM_POLE_LENGTH * (cos_a + cos_a * cos_b - sin_a * sin_b)
    return ~(tip_height > DOUBLE_PENDULUM_MIN_TIP_HEIGHT)


def cartpole(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The cart is more than 2.4 m from the centre or the pole leans more than 12 degrees; O = 4."""
    del observation, action
    on_track = jnp.abs(next_observation[..., 0]) <= CARTPOLE_MAX_POSITION
    return ~(on_track & (jnp.abs(next_observation[..., 2]) <= CARTPOLE_MAX_ANGLE))


def hopper(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """Too low, leaning too far, or any state other than the height beyond +-100; O = 11.

    The environment observes velocities clipped to +-10, so its own rule for velocities beyond 100
    can be seen only in observations that a model predicts.
    """
    del observation, action
    height, angle = next_observation[..., 0], next_observation[..., 1]
    bounded = jnp.all(jnp.abs(next_observation[..., 1:]) < HOPPER_MAX_STATE, axis=-1)
    upright = (height > HOPPER_MIN_HEIGHT) & (jnp.abs(angle) < HOPPER_MAX_ANGLE)
    return ~(bounded & upright & jnp.isfinite(height))


def walker2d(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The torso's height leaves (0.8, 2.0) or its angle leaves (-1, 1); O = 17."""
    del observation, action
    low, high = WALKER2D_HEIGHT_RANGE
    height, angle = next_observation[..., 0], next_observation[..., 1]
    return ~((height > low) & (height < high) & (jnp.abs(angle) < WALKER2D_MAX_ANGLE))


def ant(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """The torso's height leaves [0.2, 1.0], or a position or velocity is not finite.

    O is 27 (positions and velocities: version 4, truncated observations) or 105 (version 5, which
    appends contact forces; they do not enter the rule).
    """
    del observation, action
    low, high = ANT_HEIGHT_RANGE
    height = next_observation[..., 0]
    finite = _finite(next_observation[..., :ANT_STATE_SIZE])
    return ~(finite & (height >= low) & (height <= high))


def humanoid(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The torso's height leaves (1.0, 2.0); O = 45 (truncated), 348 (v5), 376 (v4)."""
    del observation, action
    low, high = HUMANOID_HEIGHT_RANGE
    height = next_observation[..., 0]
    return ~((height > low) & (height < high))


def _finite(state: chex.Array) -> chex.Array:
    """All entries of each row finite: `[..., O] -> [...]` (bool)."""
    return jnp.all(jnp.isfinite(state), axis=-1)
