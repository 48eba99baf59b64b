"""The CartPole study of optimal model design: tables, orderings and report, from two CSV files.

`points.csv` has a row per setting and seed, `curves.csv` thinned learning curves. The published
values are those of Nikishin et al. 2022 (arXiv 2106.03273), figures 4 and 5 and table 1.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import published, statistics
from errors import UserError
from experiment import metrics
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.seed_tables import STEP

POINTS_FILE, CURVES_FILE = "points.csv", "curves.csv"
RETURN, MSE, Q, CLOCK = "eval/return", "model/next_state_mse", "critic/q", "wall_clock"
LAST = 10  # evaluations, or epochs, in the final value of a seed: a single one is noisy
EVERY = 5  # evaluations per row of curves.csv, which stays below 1 MB so
DEFAULT_WIDTH = 32  # of the model where observations are distracted; the paper does not say
PUBLISHED_STEPS = 200_000
# Nikishin et al. 2022, table 1, by model width: squared errors of the next state, summed over
# dimensions, and that of an untrained model.
PUBLISHED_MSE: dict[str, dict[int, float]] = {
    "omd": {1: 8.5, 2: 5.8, 3: 4.3, 4: 17.8, 6: 11.6, 12: 5.7},
    "mle": {1: 0.9, 2: 0.4, 3: 1e-2, 4: 1e-3, 6: 1e-5, 12: 1e-5},
}
UNTRAINED_MSE = 1.5
_SETTING = ["algo", "width", "distractors"]
_MEASURED = ["final_return", "next_state_mse", "q", "steps", CLOCK]
_POINT_COLUMNS = [*_SETTING, "seed", *_MEASURED, "diverged"]  # diverged: a seed of the run did
_CURVE_COLUMNS = [STEP, *_SETTING, "seed", RETURN]


class Point(NamedTuple):
    """One setting of the study; a run of several seeds."""

    algo: str
    width: int  # units per hidden layer of the model
    distractors: int  # N(0, 1) numbers appended to the observation

    @property
    def name(self) -> str:
        """What the run folder is called."""
        setting = f"noise{self.distractors}" if self.distractors else f"width{self.width}"
        return f"{self.algo}_{setting}"


class Axis(NamedTuple):
    """One of the two things that are varied."""

    column: str  # of points.csv
    noun: str  # of one level, in a sentence
    title: str
    unit: str  # of the axis of a figure
    variant: str  # what `variant` in published.csv starts with
    source: str  # what is known about the published values, a sentence

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Returns the rows of the study over this axis."""
        return table[(table["distractors"] > 0) == (self.column == "distractors")]


WIDTH = Axis(
    column="width",
    noun="width",
    title="Model width",
    unit="hidden units per layer of the model",
    variant="model width ",
    source="Published are figure 4 of the paper and the standard errors over its ten seeds.",
)
DISTRACTORS = Axis(
    column="distractors",
    noun="distractor count",
    title="Distracting dimensions",
    unit="added N(0, 1) dimensions",
    variant="distractors ",
    source="Published is figure 5 of the paper, which states neither what the spread is, nor the "
    "number of seeds or the width of the model, and of vep only that it fails.",
)
AXES = (WIDTH, DISTRACTORS)


class Tables(NamedTuple):
    """The two CSV files."""

    points: pd.DataFrame
    curves: pd.DataFrame


class Pair(NamedTuple):
    """How probable it is that a run of one algorithm beats one of another, at one level."""

    algo: str
    other: str
    level: int
    estimate: statistics.Estimate

    @property
    def better(self) -> str | None:
        """Who is established to be better: the 95 % interval of the probability excludes 0.5."""
        if self.estimate.low > 0.5:
            return self.algo
        return self.other if self.estimate.high < 0.5 else None


def collect(runs: Iterable[tuple[Point, Path]]) -> Tables:
    """Reads runs that have ended; one that diverged is read up to the epoch before.

    Args:
      runs: settings with their run folders.

    Returns:
      Per setting and seed the means of the last `LAST` evaluations and epochs; and every `EVERY`th
      evaluation, counted back from the last.
    """
    points, curves = [], []
    for point, folder in runs:
        diverged = metrics.diverged(folder)
        for seed, frame in metrics.read(folder).items():
            frame = frame[:-1] if diverged else frame
            evaluated = frame[[STEP, RETURN]].dropna()
            learned = frame[[MSE, Q]].dropna().tail(LAST).mean()
            final = evaluated[RETURN].tail(LAST).mean()
            end = int(frame[STEP].iloc[-1]), float(frame[CLOCK].iloc[-1])
            points.append((*point, seed, final, learned[MSE], learned[Q], *end, diverged))
            thinned = evaluated.iloc[::-1].iloc[::EVERY].iloc[::-1]
            curves += [(step, *point, seed, value) for step, value in thinned.to_numpy().tolist()]
    curve_table = pd.DataFrame(curves, columns=_CURVE_COLUMNS).astype({STEP: int})
    return Tables(pd.DataFrame(points, columns=_POINT_COLUMNS), curve_table)


def write(tables: Tables, folder: Path) -> None:
    """Writes `points.csv` and `curves.csv`.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(folder, "The study"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in zip((POINTS_FILE, CURVES_FILE), tables):
            write_text_atomically(folder / name, table.to_csv(index=False))


def read(folder: Path) -> Tables:
    """Returns what `write` wrote.

    Raises:
      UserError: a file is missing or is not one of this version.
    """
    tables = []
    for name, columns in ((POINTS_FILE, _POINT_COLUMNS), (CURVES_FILE, _CURVE_COLUMNS)):
        try:
            tables.append(pd.read_csv(folder / name, float_precision="round_trip")[columns])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder / name} cannot be used ({error}). Write it again from the run folders: "
                "python benchmarks/omd_study.py --report-only with the flags of the study."
            ) from error
    return Tables(*tables)


def levels(rows: pd.DataFrame, axis: Axis) -> list[int]:
    """Returns the values of an axis, increasing."""
    return sorted(int(level) for level in axis.of(rows)[axis.column].unique())


def algorithms(points: pd.DataFrame) -> list[str]:
    """Returns the algorithms in their order."""
    return list(dict.fromkeys(points["algo"]))


def seeds_of(points: pd.DataFrame, axis: Axis, algo: str, level: int, column: str) -> np.ndarray:
    """Returns one column of points.csv at one point, [N], one value per seed."""
    rows = axis.of(points)
    return rows.loc[(rows["algo"] == algo) & (rows[axis.column] == level), column].to_numpy(float)


def interval(values: np.ndarray) -> float:
    """Returns the half-width of the mean's Student-t interval; NaN for too few seeds."""
    if values.shape[-1] < statistics.FEWEST_FOR_INTERVAL:
        return float("nan")
    return float(statistics.t_interval(values))


def published_returns(axis: Axis) -> dict[tuple[str, int], tuple[float, float]]:
    """Returns published returns and their spreads by algorithm and level."""
    table = published.read()
    rows = table[
        (table["env_family"] == "CartPole") & table["variant"].str.startswith(axis.variant)
    ]
    return {
        (row.algo, int(row.variant.removeprefix(axis.variant))): (row.mean, row.spread)
        for row in rows.itertuples()
    }


def pairs(points: pd.DataFrame, axis: Axis) -> list[Pair]:
    """Compares the final returns of all algorithms at every level where both were run."""
    rows, found = axis.of(points), []
    for algo, other in itertools.combinations(algorithms(rows), 2):
        x, y = (
            rows[rows["algo"] == name].pivot(
                index="seed", columns=axis.column, values="final_return"
            )
            for name in (algo, other)
        )
        shared = [level for level in x if level in y]
        ends = statistics.probability_of_improvement([x[shared]], [y[shared]])
        for level, *at_level in zip(shared, *ends):  # all levels at once: resampling takes the time
            found.append(Pair(algo, other, int(level), statistics.Estimate(*at_level)))
    return found


def cut_short(points: pd.DataFrame) -> list[str]:
    """Returns which points are of runs that diverged: `vep at width 2 (step 49,000)`."""
    ends = points[points["diverged"]].groupby(_SETTING)["steps"].max()
    return [
        f"{algo} at {axis.noun} {level} (step {ends[algo, width, distractors]:,})"
        for algo, width, distractors in ends.index
        for axis, level in [(DISTRACTORS, distractors) if distractors else (WIDTH, width)]
    ]


def missing(points: pd.DataFrame) -> list[str]:
    """Returns which points of the grid are not in the table: `vep at width 2`."""
    return [
        f"{algo} at {axis.noun} {level}"
        for axis in AXES
        for algo in algorithms(points)
        for level in levels(points, axis)
        if not len(seeds_of(points, axis, algo, level, "final_return"))
    ]


def log_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the geometric mean of positive values and its interval, Student's t of logarithms."""
    logs = np.log(values)
    mean, half = logs.mean(), interval(logs)
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))
