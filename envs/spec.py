"""What an algorithm may know about an environment: shapes, the action box, termination and reward.

Nothing here touches an environment instance, so everything can be traced into a compiled program.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex

TerminationFn = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]
"""`(observation [..., O], action [..., A], next_observation [..., O]) -> bool [...]`."""

RewardFn = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]
"""`(observation [..., O], action [..., A], next_observation [..., O]) -> float32 [...]`."""


class EnvSpec(NamedTuple):
    """Static description of one environment.

    Agents see observations as float32 vectors. Their continuous actions are in [-1, 1], and the
    environment boundary (`envs.registry.make`) scales them to `[action_low, action_high]`; their
    discrete actions are one-hot vectors, of which the boundary gives the environment the index.
    """

    env_id: str  # registered Gymnasium id, version and distracting dimensions included
    observation_size: int  # O
    action_size: int  # A
    action_low: tuple[float, ...]  # [A], the environment's own box; zeros if discrete
    action_high: tuple[float, ...]  # [A]; ones if discrete
    termination: TerminationFn  # actions given to it are the agent's, in [-1, 1] or one-hot
    reward: RewardFn | None  # None: not known in closed form, it has to be learned
    discrete: bool = False  # actions are one-hot vectors [A] of A choices
