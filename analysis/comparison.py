"""The numbers of a comparison as tidy tables, one CSV file each; figures are drawn from these."""

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import cost, published, statistics
from analysis.grouping import Group
from analysis.run_report import FINAL_EVALUATIONS
from errors import UserError
from experiment.files import disk_problems_as_user_errors, write_text_atomically

THRESHOLD_SHARE = 0.8  # of the way from the worst first evaluation to the best final return
MEASURES = {"final": "final return", "area": "mean return over the run"}  # per seed
_NAMES = ("curves", "returns", "scores", "summary", "improvement", "time", "published")
_TEXT = ("group", "other", *published.TEXT)  # columns whose cells can be empty or look like numbers
_ENDS = ("", "_low", "_high")
_STATISTICS = {"mean": statistics.mean, "iqm": statistics.iqm}

Tables = dict[str, pd.DataFrame]


class Curves(NamedTuple):
    """A group at the evaluations that all of its seeds have."""

    group: Group
    steps: np.ndarray  # [T]
    returns: np.ndarray  # [N, T]

    def between(self, first: int, last: int) -> "Curves":
        """Returns the evaluations from step `first` to step `last`."""
        kept = (self.steps >= first) & (self.steps <= last)
        return self._replace(steps=self.steps[kept], returns=self.returns[:, kept])


def compare(
    groups: list[Group], threshold: float | None, interval: str
) -> tuple[Tables, list[str]]:
    """Computes all tables.

    Args:
      groups: what to compare, environment by environment.
      threshold: return for "steps to threshold"; `None`: `THRESHOLD_SHARE` of the way, rounded.
      interval: a name in `statistics.METHODS`.

    Returns:
      Tables by name, and a line for every curve that ends before its longest seed does.

    Raises:
      UserError: no group has an evaluation that all of its seeds share.
    """
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in _NAMES}
    notes: list[str] = []
    for env in dict.fromkeys(group.env for group in groups):
        curves, problems = _comparable([group for group in groups if group.env == env])
        notes += problems
        if curves:
            for name, table in _environment(curves, threshold, interval).items():
                rows[name].append(table)
    if not rows["curves"]:
        raise UserError("there is nothing to compare:" + "".join(f"\n  {note}" for note in notes))
    return {name: _stacked(found) for name, found in rows.items()}, notes


def write(tables: Tables, folder: Path) -> None:
    """Writes one CSV file per table.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(folder, "The comparison"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            write_text_atomically(folder / f"{name}.csv", table.to_csv(index=False))


def read(folder: Path) -> Tables:
    """Returns the tables that `write` wrote, bit-identical.

    Raises:
      UserError: one of them is missing or damaged.
    """
    tables = {}
    for name in _NAMES:
        path = folder / f"{name}.csv"
        try:
            table = pd.read_csv(path, float_precision="round_trip", dtype=dict.fromkeys(_TEXT, str))
            tables[name] = table.fillna({name: "" for name in _TEXT if name in table})
        except FileNotFoundError as error:
            raise UserError(
                f"{path} is missing: --redraw needs the folder that a report was written to."
            ) from error
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read ({error}). Write the report again from the run folders."
            ) from error
    return tables


def _comparable(groups: list[Group]) -> tuple[list[Curves], list[str]]:
    """Returns the curves of one environment, but for those that begin after another has ended."""
    curves, notes = [], []
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


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Returns tables as one; those without rows only count where all are."""
    return pd.concat([table for table in tables if len(table)] or tables[:1])


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


def _environment(curves: list[Curves], threshold: float | None, interval: str) -> Tables:
    """Returns all tables of one environment."""
    last = min(int(c.steps[-1]) for c in curves)
    first = max(int(c.steps[0]) for c in curves)
    compared = [c.between(0, last) for c in curves]
    if threshold is None:
        lowest = min(c.returns[:, 0].mean() for c in compared)
        threshold = _rounded_threshold(lowest, max(final_returns(c).mean() for c in compared))
    scores = [_scores(c, first, threshold) for c in compared]
    estimates = [_estimates(c, table, interval) for c, table in zip(curves, scores)]
    summaries = [
        _summary(c, table, found, interval) | {"threshold": threshold}
        for c, table, found in zip(compared, scores, estimates)
    ]
    return {
        "curves": pd.concat(map(_curve, curves, estimates)),
        "returns": pd.concat(map(_returns, curves)),
        "scores": pd.concat(scores),
        "summary": pd.DataFrame(summaries),
        "improvement": _improvement(scores, interval),
        "time": pd.concat([_time(c.group, last) for c in compared]),
        "published": published.relevant(curves[0].group.env, {row["algo"] for row in summaries}),
    }


def final_returns(curves: Curves) -> np.ndarray:
    """Returns the mean of the last `FINAL_EVALUATIONS` evaluations, `[N]`, one per seed."""
    return curves.returns[:, -FINAL_EVALUATIONS:].mean(axis=1)


def _rounded_threshold(lowest: float, best: float) -> float:
    """Returns a number most of the way up, rounded to about a hundredth of the way."""
    way = best - lowest
    unit = 10.0 ** math.floor(math.log10(way) - 1) if way > 0 else 1.0
    return round((lowest + THRESHOLD_SHARE * way) / unit) * unit


def _labelled(group: Group, **columns: Any) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    table.insert(0, "group", group.label)
    table.insert(0, "env", group.env)
    return table


def _scores(curves: Curves, first: int, threshold: float) -> pd.DataFrame:
    """Returns what each seed scored; its area begins at step `first`, which other groups have."""
    common_part = curves.between(min(first, int(curves.steps[-1])), int(curves.steps[-1]))
    return _labelled(
        curves.group,
        run=[str(member.run.folder) for member in curves.group.members],
        seed=[member.seed for member in curves.group.members],
        final=final_returns(curves),
        area=statistics.area_under_curve(common_part.steps, common_part.returns),
        steps_to_threshold=statistics.steps_to_threshold(curves.steps, curves.returns, threshold),
    )


def _estimates(curves: Curves, scores: pd.DataFrame, interval: str) -> pd.DataFrame:
    """Returns mean and interquartile mean with their intervals, a row per step and per measure.

    All at once: resampling the seeds is what takes the time.
    """
    values = np.hstack([curves.returns, scores[[*MEASURES]].to_numpy()])
    columns: dict[str, np.ndarray] = {}
    for name, statistic in _STATISTICS.items():
        estimate = statistics.bootstrap(values, statistic, method=interval)
        columns |= {f"{name}{end}": found for end, found in zip(_ENDS, estimate)}
    table = pd.DataFrame({**columns, "min": values.min(axis=0), "max": values.max(axis=0)})
    return table.set_index(pd.Index([*curves.steps, *MEASURES]))


def _curve(curves: Curves, estimates: pd.DataFrame) -> pd.DataFrame:
    table = estimates.loc[[*curves.steps]].reset_index(drop=True)
    return _labelled(curves.group, step=curves.steps, seeds=len(curves.returns), **table)


def _returns(curves: Curves) -> pd.DataFrame:
    """Returns every evaluation, those included that other seeds of the group lack."""
    return pd.concat(
        _labelled(
            curves.group,
            run=str(member.run.folder),
            seed=member.seed,
            step=member.returns.index,
            **{"return": member.returns.to_numpy()},
        )
        for member in curves.group.members
    )


def _summary(
    curves: Curves, scores: pd.DataFrame, estimates: pd.DataFrame, interval: str
) -> dict[str, Any]:
    steps = scores["steps_to_threshold"]
    row: dict[str, Any] = {
        "env": curves.group.env,
        "group": curves.group.label,
        "algo": curves.group.members[0].run.config["algo"],
        "seeds": len(scores),
        "step": int(curves.steps[-1]),
        "interval": interval,
        "first_mean": float(curves.returns[:, 0].mean()),
    }
    for measure in MEASURES:
        row |= {f"{measure}_{name}": value for name, value in estimates.loc[measure].items()}
    row["reached"] = int(steps.notna().sum())
    # A seed that never gets there takes longer than all others, so it counts in the median.
    row["median_steps_to_threshold"] = float(np.median(steps.fillna(np.inf)))
    return row | cost.totals(curves.group, int(curves.steps[-1]))


def _improvement(scores: list[pd.DataFrame], interval: str) -> pd.DataFrame:
    """Returns the probability of improvement of each group over each with a lower final return."""
    ranked = sorted(scores, key=lambda table: table["final"].mean(), reverse=True)
    rows = []
    for better, worse in itertools.combinations(ranked, 2):
        samples = [table[[*MEASURES]].to_numpy() for table in (better, worse)]
        estimate = statistics.probability_of_improvement(*samples, method=interval)
        pair = (better["env"].iloc[0], better["group"].iloc[0], worse["group"].iloc[0])
        rows += [(*pair, measure, *ends) for measure, *ends in zip(MEASURES, *estimate)]
    columns = ["env", "group", "other", "measure", "probability", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _time(group: Group, last: int) -> pd.DataFrame:
    seconds = cost.stages(group, last)
    return _labelled(group, stage=list(seconds), seconds=list(seconds.values()))
