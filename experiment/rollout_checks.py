"""What can be wrong with the rollouts of a policy in the model."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiment.fields import flag, uses


def check_rollout(config: ConfigDict) -> Iterator[str]:
    """Yields start states that the elites cannot share and schedules that make no sense."""
    if not uses(config, "rollout.starts"):
        return
    starts, elites = config.rollout.starts or 0, config.model.num_elites or 0
    if starts > 0 and elites > 0 and starts % elites:
        below = starts - starts % elites
        nearest = " or ".join(str(n) for n in (below, below + elites) if n > 0)
        yield (
            f"{flag(config, 'rollout.starts')} cannot be shared equally by model.num_elites="
            f"{elites}: use {nearest}."
        )
    schedule = config.rollout.schedule if uses(config, "rollout.schedule") else None
    if schedule is not None and not _is_schedule(schedule):
        yield (
            f"{flag(config, 'rollout.schedule')} is not a schedule: give four whole numbers "
            "(from_step, to_step, from_length, to_length) with 0 <= from_step < to_step and "
            "1 <= from_length <= to_length, for example "
            '"--config.rollout.schedule=(20000, 150000, 1, 15)".'
        )


def _is_schedule(schedule: tuple[Any, ...]) -> bool:
    if len(schedule) != 4 or not all(type(value) is int for value in schedule):
        return False
    from_step, to_step, from_length, to_length = schedule
    return 0 <= from_step < to_step and 1 <= from_length <= to_length
