"""Planning with a learned model: sequences of actions are searched for the highest return."""

from collections.abc import Callable

from planners.base import ModelFn, Planner, PlanOutput, SearchSpace, search_space
from planners.cem import cem
from planners.icem import icem
from planners.mppi import mppi
from planners.random_shooting import random_shooting
from planners.trajectories import trajectory_sampling

PLANNERS: dict[str, Callable[..., Planner]] = {
    "random_shooting": random_shooting,
    "cem": cem,
    "icem": icem,
    "mppi": mppi,
}

__all__ = [
    "PLANNERS",
    "ModelFn",
    "PlanOutput",
    "Planner",
    "SearchSpace",
    "cem",
    "icem",
    "mppi",
    "random_shooting",
    "search_space",
    "trajectory_sampling",
]
