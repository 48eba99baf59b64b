"""The numbers of a comparison as tidy tables, one CSV file each; figures are drawn from these."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import cost, published, published_curves, statistics
from analysis.curves import Curves, comparable, final_returns, on_common_steps
from analysis.grouping import Group
from errors import UserError
from experiment.files import disk_problems_as_user_errors, write_text_atomically

THRESHOLD_SHARE = 0.8  # of the way from the worst first evaluation to the best final return
MEASURES = {"final": "final return", "area": "mean return over the run"}  # per seed
ALL = "all environments"  # instead of the name of one, in improvement.csv
# Columns whose cells can be empty or look like numbers.
_TEXT = ("group", "other", *published.TEXT, *published_curves.TEXT)
_ENDS = ("", "_low", "_high")
_STATISTICS = {"mean": statistics.mean, "iqm": statistics.iqm}
_SPREAD = [*(f"{name}{end}" for name in _STATISTICS for end in _ENDS), "min", "max"]
_GROUP = ["env", "group"]
_PAIR = [*_GROUP, "other", "measure", "probability", "low", "high"]
_COLUMNS = {  # of each table
    "curves": [*_GROUP, "step", "seeds", *_SPREAD],
    "returns": [*_GROUP, "run", "seed", "step", "return"],
    "scores": [*_GROUP, "run", "seed", *MEASURES, "steps_to_threshold"],
    "summary": [
        *(*_GROUP, "algo", "seeds", "step", "interval", "first_mean"),
        *(f"{measure}_{name}" for measure in MEASURES for name in _SPREAD),
        *("threshold", "reached", "median_steps_to_threshold"),
        *("runs", "minutes_per_run", "hardware"),
    ],
    "improvement": _PAIR,
    "time": [*_GROUP, "stage", "seconds"],
    "published": ["env", *published.COLUMNS],
    "published_curves": [*published_curves.COLUMNS],
}

Tables = dict[str, pd.DataFrame]


def compare(
    groups: list[Group], threshold: float | None, interval: str
) -> tuple[Tables, list[str]]:
    """Computes all tables.

    Args:
      groups: what to compare, environment by environment.
      threshold: return for "steps to threshold"; `None`: `THRESHOLD_SHARE` of the way, rounded.
      interval: a name in `statistics.METHODS`.

    Returns:
      Tables by name, and a line for all that does not count or ends early.

    Raises:
      UserError: no group has an evaluation that all of its seeds share.
    """
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in _COLUMNS}
    notes: list[str] = []
    for env in dict.fromkeys(group.env for group in groups):
        found, problems = comparable([group for group in groups if group.env == env])
        notes += problems
        if found:
            compared, problems = on_common_steps(found)
            notes += problems
            for name, table in _environment(found, compared, threshold, interval).items():
                rows[name].append(table)
    if not rows["curves"]:
        raise UserError("there is nothing to compare:" + "".join(f"\n  {note}" for note in notes))
    rows["improvement"].append(_improvement_everywhere(rows["scores"], interval))
    return {name: _stacked(tables)[_COLUMNS[name]] for name, tables in rows.items()}, notes


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
      UserError: one of them is missing, damaged, or from another version.
    """
    tables = {}
    for name, columns in _COLUMNS.items():
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
        if missing := [column for column in columns if column not in table]:
            raise UserError(
                f"{path} has no column {missing[0]}: another version wrote it. Write the report "
                "again from the run folders."
            )
    return tables


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Returns tables as one; those without rows only count where all are."""
    return pd.concat([table for table in tables if len(table)] or tables[:1])


def _environment(
    drawn: list[Curves], compared: list[Curves], threshold: float | None, interval: str
) -> Tables:
    """Returns all tables of one environment: `drawn` as curves, `compared` as scores."""
    first = max(int(c.steps[0]) for c in compared)
    if threshold is None:
        lowest = min(c.returns[:, 0].mean() for c in compared)
        threshold = _rounded_threshold(lowest, max(final_returns(c).mean() for c in compared))
    scores = [_scores(c, first, threshold) for c in compared]
    estimates = [_estimates(c, table, interval) for c, table in zip(drawn, scores)]
    summaries = [
        _summary(c, table, found, interval) | {"threshold": threshold}
        for c, table, found in zip(compared, scores, estimates)
    ]
    env, algos = drawn[0].group.env, {row["algo"] for row in summaries}
    last = max(int(c.steps[-1]) for c in drawn)
    return {
        "curves": pd.concat(map(_curve, drawn, estimates)),
        "returns": pd.concat(map(_returns, drawn)),
        "scores": pd.concat(scores),
        "summary": pd.DataFrame(summaries),
        "improvement": _improvement(scores, interval),
        "time": pd.concat(map(_time, compared)),
        "published": published.relevant(env, algos),
        "published_curves": published_curves.relevant(env, algos, last),
    }


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
    pairs = [
        _pair(table["env"].iloc[0], [table], [other], interval)
        for table, other in itertools.combinations(ranked, 2)
    ]
    return _stacked([pd.DataFrame(columns=_PAIR), *pairs])


def _improvement_everywhere(scores: list[pd.DataFrame], interval: str) -> pd.DataFrame:
    """Returns the same averaged over environments, if there are several with the same groups.

    Args:
      scores: a table of all groups per environment.
      interval: a name in `statistics.METHODS`.
    """
    by_env = [dict(iter(table.groupby("group", sort=False))) for table in scores]
    groups = list(by_env[0])
    same = all(found.keys() == by_env[0].keys() for found in by_env)
    pairs = [
        _pair(ALL, [f[group] for f in by_env], [f[other] for f in by_env], interval)
        for group, other in itertools.combinations(groups, 2)
        if same and len(by_env) > 1
    ]
    return _stacked([pd.DataFrame(columns=_PAIR), *pairs])


def _pair(
    env: str, tables: list[pd.DataFrame], others: list[pd.DataFrame], interval: str
) -> pd.DataFrame:
    """Returns a row per measure on one group against another, given a table per environment."""
    x, y = ([table[[*MEASURES]].to_numpy() for table in side] for side in (tables, others))
    estimate = statistics.probability_of_improvement(x, y, method=interval)
    names = (env, tables[0]["group"].iloc[0], others[0]["group"].iloc[0])
    rows = [(*names, measure, *ends) for measure, *ends in zip(MEASURES, *estimate)]
    return pd.DataFrame(rows, columns=_PAIR)


def _time(curves: Curves) -> pd.DataFrame:
    seconds = cost.stages(curves.group, int(curves.steps[-1]))
    return _labelled(curves.group, stage=list(seconds), seconds=list(seconds.values()))
