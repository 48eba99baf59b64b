"""Learning curves of groups, and which evaluations of them can be compared."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.grouping import Group, Member
from analysis.run_report import FINAL_EVALUATIONS
from analysis.wording import counted

LAG = 0.5  # of the way: a seed that is not so far yet would end the comparison where it is
_FEWEST_COMMON = 2  # evaluations, for an area under the curve


class Curves(NamedTuple):
    """A group at the evaluations that all of its seeds have."""

    group: Group
    steps: np.ndarray  # [T]
    returns: np.ndarray  # [N, T]

    def between(self, first: int, last: int) -> "Curves":
        """Returns the evaluations from step `first` to step `last`."""
        return self._where((self.steps >= first) & (self.steps <= last))

    def at(self, steps: np.ndarray) -> "Curves":
        """Returns the evaluations at these steps."""
        return self._where(np.isin(self.steps, steps))

    def _where(self, kept: np.ndarray) -> "Curves":
        return self._replace(steps=self.steps[kept], returns=self.returns[:, kept])


def final_returns(curves: Curves) -> np.ndarray:
    """Returns the mean of the last `FINAL_EVALUATIONS` evaluations, `[N]`, one per seed."""
    return curves.returns[:, -FINAL_EVALUATIONS:].mean(axis=1)


def comparable(groups: list[Group]) -> tuple[list[Curves], list[str]]:
    """Returns the curves of the groups of one environment that can be compared.

    Seeds that lag behind do not count, nor do groups that begin after another has ended.

    Returns:
      Curves, each at all evaluations of its group, and a line for whatever does not count.
    """
    groups, notes = _without_laggards(groups)
    curves = []
    for group in groups:
        found, problems = common(group)
        curves += found
        notes += problems
    last = min((int(c.steps[-1]) for c in curves), default=0)
    for c in [c for c in curves if c.steps[0] > last]:
        notes.append(
            f"{c.group.label} on {c.group.env}: its first evaluation, at step {c.steps[0]:,}, is "
            f"after step {last:,}, the last of another group; left out."
        )
    return [c for c in curves if c.steps[0] <= last], notes


def common(group: Group) -> tuple[list[Curves], list[str]]:
    """Returns the curve over the steps that all seeds of a group have, if there is one."""
    table = pd.concat([m.returns for m in group.members], axis=1, join="inner").sort_index()
    what = f"{group.label} on {group.env}"
    if table.empty:
        return [], [f"{what}: its seeds have no evaluation at the same step; left out."]
    curves = Curves(group, table.index.to_numpy(), table.to_numpy().T)
    shortest = min(group.members, key=lambda member: member.step)
    if shortest.step == max(member.step for member in group.members):
        return [curves], []
    return [curves], [
        f"{what}: its curve ends at step {curves.steps[-1]:,}, the last that all of its seeds "
        f"have; seed {shortest.seed} of {shortest.run.folder} ends there."
    ]


def on_common_steps(curves: Sequence[Curves]) -> tuple[list[Curves], list[str]]:
    """Returns the evaluations at steps that all groups have, as only those compare like with like.

    An average over the last evaluations reaches further back where evaluations are further apart.
    Groups with fewer than two such steps keep their own up to the last that all have reached, and a
    line says so.
    """
    steps = functools.reduce(np.intersect1d, [c.steps for c in curves])
    if len(steps) >= _FEWEST_COMMON:
        return [c.at(steps) for c in curves], []
    last = min(int(c.steps[-1]) for c in curves)
    own = [c.between(0, last) for c in curves]
    if all(np.array_equal(c.steps, own[0].steps) for c in own):
        return own, []
    return own, [
        f"{curves[0].group.env}: its groups have {counted(len(steps), 'evaluation')} at the same "
        f"step, so each is compared by its own up to step {last:,}, and their final returns "
        "average over different parts of a run."
    ]


def _without_laggards(groups: list[Group]) -> tuple[list[Group], list[str]]:
    """Leaves out seeds that are not half as far as the furthest of the environment.

    A run that was meant to be shorter has its own last step instead of that.
    """
    furthest = max(member.step for group in groups for member in group.members)
    kept, notes = [], []
    for group in groups:
        behind: dict[tuple[Path, int], list[int]] = {}
        members = []
        for member in group.members:
            if member.step >= LAG * _goal(member, furthest):
                members.append(member)
            else:
                behind.setdefault((member.run.folder, member.step), []).append(member.seed)
        for (folder, step), seeds in behind.items():
            notes.append(
                f"{group.label} on {group.env}: seed {', '.join(map(str, seeds))} of {folder} is "
                f"left out: it is at step {step:,}, others are at {furthest:,}. It counts again "
                "once it has caught up."
            )
        if members:
            kept.append(group._replace(members=members))
        else:
            notes.append(f"{group.label} on {group.env}: no seed is far enough; left out.")
    return kept, notes


def _goal(member: Member, furthest: int) -> int:
    return min(furthest, member.run.config["total_steps"] or furthest)
