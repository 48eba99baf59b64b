"""What a group of runs cost: wall-clock time, its stages, and the hardware."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.grouping import Group, Member
from analysis.run_report import STAGES
from analysis.runs import CLOCK, STEP
from analysis.wording import hardware

OTHER_TIME = "everything else"


def totals(group: Group, last: int) -> dict[str, Any]:
    """Returns what it took to get to step `last`: seeds of one run share its time.

    The time is NaN if a run has not recorded any.
    """
    runs = _by_run(group)
    machines = {hardware(members[0].run.environment.get("hardware") or {}) for members in runs}
    return {
        "runs": len(runs),
        "minutes_per_run": float(np.mean([_seconds(members, last) for members in runs])) / 60,
        "hardware": "; ".join(sorted(machines)),
    }


def _by_run(group: Group) -> list[list[Member]]:
    runs: dict[Path, list[Member]] = {}
    for member in group.members:
        runs.setdefault(member.run.folder, []).append(member)
    return list(runs.values())


def _rows(member: Member, last: int) -> pd.DataFrame:
    frame = member.run.seeds[member.seed]
    return frame[frame[STEP] <= last]


def _seconds(members: list[Member], last: int) -> float:
    """Returns the wall-clock time of a run up to step `last`."""
    return max(_rows(member, last)[CLOCK].max() for member in members)


def stages(group: Group, last: int) -> dict[str, float]:
    """Returns the seconds of each stage up to step `last`, averaged over the runs of a group.

    What is in no stage is `OTHER_TIME`, 0 for a run that has not recorded how long it took.
    """
    runs = _by_run(group)
    mean: dict[str, float] = {}
    for members in runs:
        frames = [_rows(member, last) for member in members]
        seconds = {
            label: float(np.mean([frame[column].sum() for frame in frames]))
            for column, label in STAGES.items()
            if all(column in frame for frame in frames)
        }
        rest = _seconds(members, last) - sum(seconds.values())
        seconds[OTHER_TIME] = max(0.0, rest)  # in this order, it is 0 where the whole is unknown
        for stage, value in seconds.items():
            mean[stage] = mean.get(stage, 0.0) + value / len(runs)
    return mean
