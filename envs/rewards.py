"""Rewards that are an exact function of what the agent sees and does.

Every function has the type `spec.RewardFn`: `(observation [..., O], action [..., A],
next_observation [..., O]) -> reward [...]` (float32), with the agents' actions: in [-1, 1], or
one-hot. Each repeats the `step` method of a Gymnasium 1.4 environment and agrees with it to 1e-4.

The other MuJoCo environments pay for a displacement that is not observed (HalfCheetah, Hopper,
Walker2d, Swimmer, Ant, Humanoid) or for velocities that are observed clipped
(InvertedDoublePendulum): their rewards have to be learned.
"""

import chex
import jax.numpy as jnp

from envs import terminations

PENDULUM_MAX_TORQUE = 2.0
PENDULUM_VELOCITY_COST = 0.1
PENDULUM_TORQUE_COST = 0.001
PUSHER_MAX_TORQUE = 2.0
PUSHER_NEAR_WEIGHT = 0.5
PUSHER_CONTROL_COST = 0.1


def pendulum(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """Pendulum-v1: quadratic cost of angle, velocity and torque, all before the step.

    The observation is `[cos angle, sin angle, angular velocity]`.
    """
    del next_observation
    cosine, sine, velocity = (observation[..., i] for i in range(3))
    angle = jnp.arctan2(sine, cosine)
    torque = PENDULUM_MAX_TORQUE * action[..., 0]
    return -(angle**2 + PENDULUM_VELOCITY_COST * velocity**2 + PENDULUM_TORQUE_COST * torque**2)


def one_per_step(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """CartPole-v1 and InvertedPendulum-v4: 1 for every step, the terminating one included."""
    del observation, action
    return jnp.ones(next_observation.shape[:-1], dtype=jnp.float32)


def inverted_pendulum_v5(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """InvertedPendulum-v5: 1 for every step that does not terminate, else 0."""
    terminated = terminations.inverted_pendulum(observation, action, next_observation)
    return 1.0 - terminated.astype(jnp.float32)


def reacher_v4(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """Reacher-v4: minus the fingertip's distance to the target before the step, minus `|action|^2`.

    `observation[..., 8:11]` is the vector from target to fingertip in metres.
    """
    del next_observation
    return -_length(observation[..., 8:11]) - _squared(action)


def reacher_v5(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """Reacher-v5: as version 4, but with the distance after the step.

    `next_observation[..., 8:10]` is the vector from target to fingertip in metres; version 5
    does not observe its vertical part, which is always 0.
    """
    del observation
    return -_length(next_observation[..., 8:10]) - _squared(action)


def pusher_v5(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """Pusher-v5: object to goal, half of object to fingertip, and torque, all after the step.

    `next_observation[..., 14:23]` are the positions of fingertip, object and goal in metres.
    """
    del observation
    fingertip = next_observation[..., 14:17]
    puck = next_observation[..., 17:20]
    goal = next_observation[..., 20:23]
    control_cost = PUSHER_CONTROL_COST * _squared(PUSHER_MAX_TORQUE * action)
    near_cost = PUSHER_NEAR_WEIGHT * _length(puck - fingertip)
    return -_length(puck - goal) - near_cost - control_cost


def _length(vector: chex.Array) -> chex.Array:
    """Euclidean norm of each row: `[..., D] -> [...]`."""
    return jnp.linalg.norm(vector, axis=-1)


def _squared(vector: chex.Array) -> chex.Array:
    """Squared Euclidean norm of each row: `[..., D] -> [...]`."""
    return jnp.sum(jnp.square(vector), axis=-1)
