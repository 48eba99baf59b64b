"""How often the 95 % intervals of `analysis.statistics` hold the true value, by simulation.

    python benchmarks/interval_coverage.py [--studies=1000]

Draws many studies of few seeds from distributions whose true mean, interquartile mean and
probability of improvement are known, and counts. Writes the tables of `docs/statistics.md` to
standard output; takes a quarter of an hour.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import scipy.stats  # noqa: E402

from analysis import statistics  # noqa: E402
from analysis.rendering import markdown_table  # noqa: E402
from analysis.statistics import Estimate  # noqa: E402

SEEDS = (3, 4, 5, 8, 10, 20, 30)
PAIRED = ((1, 3), (1, 5), (1, 10), (4, 3), (4, 5), (4, 10))  # environments, seeds per algorithm
BLOCK = 100  # studies at a time, which bounds the memory
TRUTH_SAMPLES = 5_000_000  # for what has no closed form; leaves an error of 0.05 % of the spread

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Interval = Callable[[np.ndarray], Estimate]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns standard normal scores."""
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns lognormal scores with a skewness of 1.75."""
    return np.exp(0.5 * rng.normal(size=shape))


def failing(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns 3000 ± 300, or 500 ± 200 for the fifth of the seeds that fails."""
    failed = rng.random(shape) < 0.2
    return np.where(failed, rng.normal(500, 200, shape), rng.normal(3000, 300, shape))


def blocks(draw: Draw, shape: tuple[int, ...], studies: int) -> Iterator[np.ndarray]:
    """Yields the scores `[*shape, BLOCK]` of so many studies, the same ones at every call."""
    rng = np.random.default_rng(shape)
    for _ in range(studies // BLOCK):
        yield draw(rng, (*shape, BLOCK))


def coverage(scores: Iterable[np.ndarray], estimate: Interval, truth: float) -> str:
    """Returns in how many percent of the studies the interval holds the truth."""
    inside = []
    for block in scores:
        _, low, high = estimate(block)
        inside.append((low <= truth) & (truth <= high))
    return f"{100 * np.mean(inside):.1f}"


def student(scores: np.ndarray) -> Estimate:
    """Returns the mean over seeds with its Student-t interval."""
    center, half_width = scores.mean(axis=0), statistics.t_interval(scores.T)
    return Estimate(center, center - half_width, center + half_width)


def averages(draw: Draw, studies: int) -> list[list[str]]:
    """Returns the rows of the first table for one distribution."""
    sample = draw(np.random.default_rng(1), (TRUTH_SAMPLES,))
    truths = {"mean": sample.mean(), "iqm": scipy.stats.trim_mean(sample, 0.25)}
    estimates: dict[tuple[str, str], Interval] = {("mean", "Student-t"): student}
    for statistic in (statistics.mean, statistics.iqm):
        for method in statistics.METHODS:
            estimate = partial(statistics.bootstrap, statistic=statistic, method=method)
            estimates[statistic.__name__, method] = estimate
    return [
        [f"{draw.__name__}: {name}, {method}"]
        + [coverage(blocks(draw, (n,), studies), estimate, truths[name]) for n in SEEDS]
        for (name, method), estimate in estimates.items()
    ]


def improvement(scores: np.ndarray, shift: float, method: str) -> Estimate:
    """Returns the probability of improvement of `scores[0]` plus a shift over `scores[1]`."""
    return statistics.probability_of_improvement([*scores[0] + shift], [*scores[1]], method=method)


def improvements(shift: float, studies: int) -> list[list[str]]:
    """Returns the rows of the second table, for normal scores whose means are `shift` apart."""
    truth = float(scipy.stats.norm.cdf(shift / 2**0.5))
    return [
        [f"{truth:.2f}, {method}"]
        + [
            coverage(
                blocks(normal, (2, environments, n), studies),
                partial(improvement, shift=shift, method=method),
                truth,
            )
            for environments, n in PAIRED
        ]
        for method in statistics.METHODS
    ]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description="How often the 95 % intervals hold, by simulation")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per cell")
    studies = parser.parse_args().studies
    rows = [row for draw in (normal, skewed, failing) for row in averages(draw, studies)]
    print(markdown_table(["seeds", *map(str, SEEDS)], rows), end="\n\n", flush=True)
    rows = [row for shift in (0.0, 1.0, 2.0, 3.0) for row in improvements(shift, studies)]
    print(markdown_table(["P(X > Y)", *(f"{n} x {k}" for k, n in PAIRED)], rows))


if __name__ == "__main__":
    # SciPy computes all studies of a block at once, rliable one resample after the other.
    with mock.patch.object(statistics, "_rliable", return_value=None):
        main()
