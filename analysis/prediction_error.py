"""How far predictions are from the truth, and whether the ensemble knows.

Shapes: K elites, N segments or transitions, H steps, O dimensions of the observation. Errors are in
units of a `scale` [O] per dimension.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from analysis.calibration import LARGEST_ERROR

DECILES = 10
FEWEST_ROWS = 10  # of an average that is reported: fewer say nothing
SMALLEST_STD = 1e-6  # relative to the mean where that exceeds 1; float32 rounding lies below it


class Drift(NamedTuple):
    """Open-loop errors by step and dimension; NaN at steps with fewer than `FEWEST_ROWS` rows."""

    error: np.ndarray  # [H, O], root mean square over elites and segments
    spread: np.ndarray  # [H, O], standard deviation over elites, root mean square over segments
    no_change: np.ndarray  # [H, O], root-mean-square error of predicting the first state forever
    segments: np.ndarray  # int [H], that last so long


class Confusion(NamedTuple):
    """How predicted and real events go together; averaged over elites, so not always integers."""

    true_positives: float
    false_positives: float
    false_negatives: float

    @property
    def precision(self) -> float:
        """The share of predicted events that were real; NaN if none was predicted."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The share of real events that were predicted; NaN if there was none."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)


def varies(x: np.ndarray) -> np.ndarray:
    """Whether each column of x [N, D] is more than a constant with rounding errors: bool [D]."""
    x = x.astype(float)
    return x.std(axis=0) > SMALLEST_STD * np.maximum(1.0, np.abs(x.mean(axis=0)))


def scales(x: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of each column of x [N, D]; 1 for one that never varies."""
    return np.where(varies(x), x.std(axis=0, dtype=float), 1.0)


def drift(
    predicted: np.ndarray,
    start: np.ndarray,
    reached: np.ndarray,
    valid: np.ndarray,
    scale: np.ndarray,
) -> Drift:
    """Compares predictions with what was reached after 1, 2, ... H steps.

    Args:
      predicted: [H, K, N, O]; errors, also of predictions that overflowed, count as at most
        `LARGEST_ERROR`.
      start: [N, O], the state all of them start from.
      reached: [N, H, O].
      valid: bool [N, H], the steps that really happened.
      scale: [O], positive.
    """
    rows = []
    for k, prediction in enumerate(predicted):
        kept = valid[:, k]
        if kept.sum() < FEWEST_ROWS:
            rows.append(np.full((3, len(scale)), np.nan))
            continue
        truth = reached[kept, k] / scale
        standing = start[kept] / scale
        prediction = _bounded(prediction[:, kept] / scale, truth)
        rows.append(
            np.stack(
                [
                    _rms(prediction - truth, axis=(0, 1)),
                    _rms(prediction.std(axis=0), axis=0),
                    _rms(standing - truth, axis=0),
                ]
            )
        )
    error, spread, no_change = np.stack(rows, axis=1)
    return Drift(error, spread, no_change, valid.sum(axis=0))


def over_dimensions(rms: np.ndarray) -> np.ndarray:
    """Pools root mean squares [..., O] over the dimensions: [...]."""
    return _rms(rms, axis=-1)


def reward_error(predicted: np.ndarray, actual: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns the root-mean-square error [H] of rewards [H, K, N], given the real ones [N, H]."""
    errors = []
    for k, prediction in enumerate(predicted):
        kept = valid[:, k]
        truth = actual[kept, k].astype(float)
        few = len(truth) < FEWEST_ROWS
        errors.append(np.nan if few else _rms(_bounded(prediction[:, kept], truth) - truth))
    return np.array(errors)


def disagreement_and_error(
    predicted: np.ndarray, actual: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much the elites disagree [N], and how wrong their mean is [N].

    Both are root mean squares over dimensions: of the standard deviation over elites, and of the
    error of the average prediction. The error of single elites would contain the disagreement.

    Args:
      predicted: [K, N, O].
      actual: [N, O].
      scale: [O].
    """
    truth = actual / scale
    prediction = _bounded(predicted / scale, truth)
    disagreement = _rms(prediction.std(axis=0), axis=1)
    return disagreement, _rms(prediction.mean(axis=0) - truth, axis=1)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's correlation; NaN with few rows, or if one of them never changes."""
    if len(a) < FEWEST_ROWS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(scipy.stats.spearmanr(a, b).statistic)


def error_by_decile(disagreement: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Returns the root-mean-square error [10] of the rows [N] in tenths, by disagreement.

    The first tenth has the least disagreement. NaN if there are fewer than ten rows.
    """
    if len(error) < DECILES:
        return np.full(DECILES, np.nan)
    ordered = error[np.argsort(disagreement, kind="stable")]
    return np.array([_rms(part) for part in np.array_split(ordered, DECILES)])


def confusion(predicted: np.ndarray, real: np.ndarray) -> Confusion:
    """Counts predicted events (bool [K, N]) that were real (bool [N]) or not, mean over elites."""
    return Confusion(
        float((predicted & real).sum(axis=1).mean()),
        float((predicted & ~real).sum(axis=1).mean()),
        float((~predicted & real).sum(axis=1).mean()),
    )


def any_step(events: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Whether an event [H, ..., N] happens at a step that counts, valid being bool [N, H]."""
    counts = valid.T.reshape(len(events), *[1] * (events.ndim - 2), -1)
    return (events & counts).any(axis=0)


def _bounded(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Keeps predictions within `LARGEST_ERROR` of the truth; NaN counts as that far above it."""
    error = np.nan_to_num(prediction.astype(float) - truth, nan=LARGEST_ERROR)
    return truth + np.clip(error, -LARGEST_ERROR, LARGEST_ERROR)


def _rms(x: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    return np.sqrt(np.square(x, dtype=float).mean(axis=axis))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
