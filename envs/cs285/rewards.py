"""The rewards of cheetah and reacher: of the state after the step, never of the action.

They are written with operators alone, so that the simulators call them on NumPy arrays in double
precision and planners on JAX arrays. This module does not import MuJoCo, because programs choose
its renderer before it is imported.
"""

import chex

BENT_LEG_PENALTY = 10.0  # for each joint of the front leg
MAX_THIGH_ANGLE = 0.2  # radians
MAX_SHIN_ANGLE = 0.0
MAX_FOOT_ANGLE = 0.0
REACHER_SCALE = 10.0  # per metre


def cheetah_terms(observation: chex.Array) -> dict[str, chex.Array]:
    """What the cheetah's reward is the sum of: its speed, and penalties for a bent front leg.

    Args:
      observation: [..., 21], see `cheetah.CheetahEnv`: 9 is the root's forward velocity in metres
        per second; 6, 7 and 8 are the angles of the front thigh, shin and foot.

    Returns:
      `reward_run`, `reward_leg`, `reward_shin`, `reward_foot`: [...] each.
    """
    return {
        "reward_run": observation[..., 9],
        "reward_leg": -BENT_LEG_PENALTY * (observation[..., 6] > MAX_THIGH_ANGLE),
        "reward_shin": -BENT_LEG_PENALTY * (observation[..., 7] > MAX_SHIN_ANGLE),
        "reward_foot": -BENT_LEG_PENALTY * (observation[..., 8] > MAX_FOOT_ANGLE),
    }


def cheetah(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """cheetah-cs285-v0: the sum of `cheetah_terms`."""
    del observation, action
    terms = cheetah_terms(next_observation)
    return terms["reward_run"] + terms["reward_leg"] + terms["reward_shin"] + terms["reward_foot"]


def reacher(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """reacher-cs285-v0: minus ten times `reacher_distance`."""
    del observation, action
    return -REACHER_SCALE * reacher_distance(next_observation)


def reacher_distance(observation: chex.Array) -> chex.Array:
    """From finger to target, in metres: observations [..., 20] -> [...]."""
    return distance(observation[..., 14:17], observation[..., 17:20])


def distance(a: chex.Array, b: chex.Array) -> chex.Array:
    """Euclidean distance of the rows of two arrays: [..., D] -> [...]."""
    return ((a - b) ** 2).sum(-1) ** 0.5
