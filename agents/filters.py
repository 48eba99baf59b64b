"""Rollout filters by name; `config.rollout.filter` names one."""

from collections.abc import Callable

from ml_collections import ConfigDict

from flows.filter import flow_both, flow_discriminator, flow_reward
from models.objectives import Parts
from models.rollout import RolloutFilter, keep_all

FILTERS: dict[str, Callable[[ConfigDict, Parts], RolloutFilter]] = {
    "none": keep_all,
    "flow_discriminator": flow_discriminator,
    "flow_reward": flow_reward,
    "flow_both": flow_both,
}
