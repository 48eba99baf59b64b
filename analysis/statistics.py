"""Estimates over seeds and their intervals; `docs/statistics.md` says which to use when.

The bootstrap is rliable's (Agarwal et al. 2021) where that package can be imported and SciPy's
elsewhere: the same resampling, so the same intervals to within its Monte-Carlo error. Both draw
from a fixed random state, so the same scores always have the same interval.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 3  # Student's t: that of two seeds is 13 times as wide as they are apart
FEWEST_FOR_BOOTSTRAP = 5  # of 4 it holds in 87 % of studies at most, however wide it is made
RESAMPLES = 20_000  # about 20 of them lie beyond each end of the interval of five seeds
BATCH = 250  # resamples at a time in SciPy: a curve of 100 points and 10 seeds takes 2 MB
TRIMMED = 0.25  # of the seeds at each end, for the interquartile mean

Statistic = Callable[..., np.ndarray]  # (values, axis=...) -> reduced over the axis


class Estimate(NamedTuple):
    """A statistic over seeds and the ends of its 95 % interval."""

    value: np.ndarray  # [...]
    low: np.ndarray  # [...], NaN where there are too few seeds
    high: np.ndarray  # [...]


def t_interval(values: np.ndarray) -> np.ndarray:
    """Returns the half-width of the Student-t interval of the mean over the last axis.

    Args:
      values: samples `[..., N]`, one per seed.

    Returns:
      `[...]`, the 95 % half-width; NaN for N < 2.
    """
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], np.nan)
    quantile = stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    return quantile * values.std(axis=-1, ddof=1) / np.sqrt(count)


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the mean over an axis."""
    return np.mean(values, axis=axis)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the interquartile mean: without the lowest and the highest quarter, rounded down.

    NaN where a value is NaN. Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
    of the Statistical Precipice"; the same as `aggregate_iqm` of rliable.
    """
    count = values.shape[axis]
    cut = int(TRIMMED * count)
    ordered = np.sort(values, axis=axis)  # NaN last
    middle = ordered.take(range(cut, count - cut), axis=axis).mean(axis=axis)
    return np.where(np.isnan(ordered.take(-1, axis=axis)), np.nan, middle)


def bootstrap(scores: np.ndarray, statistic: Statistic, *, method: str = "expanded") -> Estimate:
    """Returns a statistic over seeds with its bootstrap interval.

    Args:
      scores: `[N, ...]`, seeds first; the interval is per trailing position (a learning curve
        `[N, T]` has `[T]`), and seeds are resampled as a whole.
      statistic: `iqm`, `mean`, or a function like these.
      method: one of `METHODS`.

    Returns:
      The estimate, NaN where a score is; its ends are NaN also where a score is infinite, and
      everywhere with fewer than `FEWEST_FOR_BOOTSTRAP` rows.
    """
    return _estimate([scores], statistic, method)


def probability_of_improvement(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, method: str = "expanded"
) -> Estimate:
    """Returns how probable it is that a run of X has a higher score than a run of Y.

    P(X > Y) + P(X = Y) / 2 over all pairs, the Mann-Whitney statistic; of several environments,
    the mean, and each is resampled on its own (the stratified bootstrap). Source: Agarwal et al.
    2021.

    Args:
      x: by environment, scores `[N, ...]`, seeds first.
      y: for the same environments, scores `[M, ...]` of the other algorithm.
      method: one of `METHODS`.

    Returns:
      The estimate per trailing position, NaN as for `bootstrap`.
    """
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} environments, but y has {len(y)}")

    def averaged(*samples: np.ndarray, axis: int) -> np.ndarray:
        wins = [_wins(*pair) for pair in zip(samples[: len(x)], samples[len(x) :])]
        return np.mean(wins, axis=0)

    estimate = _estimate([*x, *y], averaged, method)
    disjoint_pairs = len(x) * min(len(sample) for sample in (*x, *y))
    return _no_surer_than_separation(estimate, disjoint_pairs)


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Returns the mean return over a run, by the trapezoidal rule.

    Args:
      steps: environment steps `[T]` of the evaluations, increasing.
      returns: `[N, T]`, one row per seed.

    Returns:
      `[N]`, in units of a return: the area divided by the range of the steps. With a single
      evaluation, that evaluation.
    """
    if len(steps) == 1:
        return returns[:, 0].astype(float)
    return np.trapezoid(returns, steps, axis=1) / (steps[-1] - steps[0])


def steps_to_threshold(steps: np.ndarray, returns: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the environment steps at the first evaluation that reaches a threshold.

    Args:
      steps: environment steps `[T]` of the evaluations, increasing.
      returns: `[N, T]`, one row per seed.
      threshold: a return.

    Returns:
      `[N]`, the first step with a return of at least `threshold`; NaN for a seed without one.
    """
    reached = returns >= threshold
    return np.where(reached.any(axis=1), steps[reached.argmax(axis=1)], np.nan)


def engine() -> str:
    """Returns the name and version of the package that computes the bootstrap intervals."""
    name = "scipy" if _rliable() is None else "rliable"
    return f"{name} {importlib.metadata.version(name)}"


def _percentile_level(count: int) -> float:
    return (1 - CONFIDENCE) / 2


def _expanded_level(count: int) -> float:
    """Returns the level at which percentiles of normal resamples are as far apart as Student's t.

    Resamples of N seeds spread as if they had the variance with divisor N, and percentiles use the
    normal quantile where the variance is estimated; together they leave intervals of few seeds too
    narrow. Means of few seeds are not quite normal: of 5 the interval is 0.87 times as wide as
    Student's t, of 8 0.97 times. Source: Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69(4), the expanded percentile interval.
    """
    t_quantile = stdtrit(count - 1, (1 - CONFIDENCE) / 2)
    return float(ndtr(np.sqrt(count / (count - 1)) * t_quantile))


# By name, the probability beyond each end of the interval from the number of seeds.
METHODS = {"expanded": _expanded_level, "percentile": _percentile_level}


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the share of pairs of `x` `[..., N]` and `y` `[..., M]` that x wins, ties half."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y).mean(axis=(-2, -1)) + (x >= y).mean(axis=(-2, -1))) / 2


def _no_surer_than_separation(estimate: Estimate, disjoint_pairs: int) -> Estimate:
    """Widens intervals that say more than every run of one group beating every run of the other.

    All resamples of such groups agree, so their own interval has no width. Its end is instead that
    of the exact one-sided interval for n successes in a row ("rule of three"), as n pairs without a
    common run are all won with probability P(X > Y)^n. Groups that overlap are less sure than that.
    """
    value, low, high = estimate
    bound = (1 - CONFIDENCE) ** (1 / disjoint_pairs)
    return Estimate(value, np.minimum(low, bound), np.maximum(high, 1 - bound))


def _estimate(samples: list[np.ndarray], statistic: Statistic, method: str) -> Estimate:
    """Returns `statistic(*samples, axis=-1)` and its interval; each sample is resampled alone."""
    samples = [np.moveaxis(np.asarray(sample, dtype=float), 0, -1) for sample in samples]
    unknown = np.any([np.isnan(sample).any(axis=-1) for sample in samples], axis=0)
    value = np.where(unknown, np.nan, statistic(*samples, axis=-1))
    fewest = min(sample.shape[-1] for sample in samples)
    if fewest < FEWEST_FOR_BOOTSTRAP:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    interval = _scipy_interval if _rliable() is None else _rliable_interval
    finite = np.all([np.isfinite(sample).all(axis=-1) for sample in samples], axis=0)
    known = [np.where(finite[..., None], sample, 0.0) for sample in samples]
    low, high = interval(known, statistic, METHODS[method](fewest))
    return Estimate(value, np.where(finite, low, np.nan), np.where(finite, high, np.nan))


def _scipy_interval(
    samples: list[np.ndarray], statistic: Statistic, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the percentiles `level` and `1 - level` of the bootstrap distribution."""
    result = scipy.stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=1 - 2 * level,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def _rliable_interval(
    samples: list[np.ndarray], statistic: Statistic, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same as `_scipy_interval`, from rliable."""
    library = _rliable()
    assert library is not None

    def of_resample(*numbers: np.ndarray) -> np.ndarray:
        resampled = [sample[..., n[:, 0]] for sample, n in zip(samples, numbers)]
        return np.ravel(statistic(*resampled, axis=-1))

    # rliable resamples every entry of its arrays independently, even the points of one curve. Given
    # the numbers of the seeds instead of their scores, it resamples seeds.
    numbers = [np.arange(sample.shape[-1])[:, None] for sample in samples]
    state = np.random.get_state()  # noqa: NPY002  rliable draws from the global generator
    np.random.seed(0)  # noqa: NPY002
    try:
        _, intervals = library.get_interval_estimates(
            {"": numbers}, of_resample, reps=RESAMPLES, confidence_interval_size=1 - 2 * level
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    low, high = intervals[""].reshape(2, *samples[0].shape[:-1])
    return low, high


@functools.cache
def _rliable() -> ModuleType | None:
    """Returns `rliable.library`, or None where it cannot be imported."""
    try:
        from rliable import library
    except (
        Exception
    ):  # not installed, or broken by a newer pandas: it raises several kinds of error
        return None
    return library
