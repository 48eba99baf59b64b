"""From raw predictions and trajectories to the tidy table of a diagnosis.

`docs/diagnosis.md` explains every quantity. Shapes are those of `models.diagnostics`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis import calibration, prediction_error, value_error
from analysis.value_error import ReturnGap

if TYPE_CHECKING:
    from models.diagnostics import OneStep, OpenLoop
    from replay import Transition

COLUMNS = ["run", "seed", "quantity", "at", "dimension", "value"]
ALL, REWARD = "all", "reward"  # dimensions besides the numbered ones
CURVE_POINTS = 100  # of a curve over the steps of an episode

Row = tuple[str, float, str, float]  # quantity, at, dimension, value


class Segments(NamedTuple):
    """Real segments of up to H steps."""

    start: np.ndarray  # [N, O]
    action: np.ndarray  # [N, H, A]
    reached: np.ndarray  # [N, H, O]
    reward: np.ndarray  # [N, H]
    terminated: np.ndarray  # bool [N, H]
    valid: np.ndarray  # bool [N, H], a prefix of every segment: the steps that happened


def tidy(run: str, rows_by_seed: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """Returns one row per number, those that are not defined left out."""
    records = [
        (run, seed, quantity, at, dimension, float(value))
        for seed, rows in rows_by_seed.items()
        for quantity, at, dimension, value in rows
        if not np.isnan(value)
    ]
    frame = pd.DataFrame(records, columns=COLUMNS)
    return frame.astype({"at": float, "dimension": str, "value": float})


def read(path: object) -> pd.DataFrame:
    """Returns the table in a CSV file, bit-identical to the one written."""
    types = {"run": str, "dimension": str, "at": float}
    return pd.read_csv(path, dtype=types, float_precision="round_trip")


def select(frame: pd.DataFrame, quantity: str, dimension: str = ALL) -> pd.DataFrame:
    """Returns one quantity: a row per `at`, a column per seed that has it."""
    chosen = frame[(frame.quantity == quantity) & (frame.dimension == dimension)]
    return chosen.pivot(index="at", columns="seed", values="value").sort_index()


def at(frame: pd.DataFrame, quantity: str, where: float, dimension: str = ALL) -> pd.Series:
    """Returns one quantity at one place, by seed; empty where it is not defined."""
    table = select(frame, quantity, dimension)
    return table.loc[where].dropna() if where in table.index else pd.Series(dtype=float)


def only(frame: pd.DataFrame, quantity: str, dimension: str = ALL) -> pd.Series:
    """Returns a quantity that has one value per seed."""
    table = select(frame, quantity, dimension)
    return table.iloc[-1].dropna() if len(table) else pd.Series(dtype=float)


def dimensions(frame: pd.DataFrame, quantity: str) -> list[str]:
    """Returns the dimensions a quantity is given for, without `ALL`, the reward last."""
    names = frame.loc[frame.quantity == quantity, "dimension"].unique()
    numbers = sorted((name for name in names if name.isdigit()), key=int)
    return numbers + [REWARD] * (REWARD in names)


def has_model(frame: pd.DataFrame) -> bool:
    """Whether the diagnosed algorithm has a dynamics model."""
    return "open_loop/segments" in frame.quantity.array


def termination_counts(frame: pd.DataFrame, kind: str) -> tuple[int, float, float, float]:
    """Returns horizon, true positives, false positives and false negatives of all seeds.

    Args:
      frame: the table.
      kind: "one_step" or "open_loop".
    """
    names = ("true_positives", "false_positives", "false_negatives")
    tables = [select(frame, f"termination/{kind}_{name}") for name in names]
    hits, false_alarms, missed = (float(table.to_numpy().sum()) for table in tables)
    return int(tables[0].index[-1]), hits, false_alarms, missed


def pooled_half_width(half_widths: pd.DataFrame) -> pd.Series:
    """Returns the half-width of the interval of the mean over seeds (columns), by row.

    Episodes of different seeds are independent, so the squares add up. It is about these seeds:
    other seeds could differ by more.
    """
    return np.sqrt(np.square(half_widths).sum(axis=1, skipna=False)) / half_widths.shape[1]


def data_rows(episode_steps: Sequence[int]) -> list[Row]:
    """Describes what was collected."""
    return [
        ("data/episodes", 0.0, ALL, len(episode_steps)),
        ("data/transitions", 0.0, ALL, sum(episode_steps)),
    ]


def one_step_rows(predictions: "OneStep", real: "Transition", scale: np.ndarray) -> list[Row]:
    """Likelihood, calibration, disagreement and predicted terminations of single steps.

    Args:
      predictions: of N transitions; further rows are padding.
      real: these transitions [N, ...].
      scale: [O], unit of the errors.
    """
    rows = len(real.reward)
    predicted, terminated = predictions.next_observation[:, :rows], predictions.terminated[:, :rows]
    found = prediction_error.confusion(terminated, real.terminated > 0)
    return [
        *_likelihood_rows(
            predictions.mean[:, :rows],
            predictions.log_variance[:, :rows],
            predictions.target[:rows],
            len(scale),
        ),
        *_disagreement_rows("one_step", 1.0, predicted, real.next_observation, scale),
        *_termination_rows("one_step", 1.0, found),
    ]


def open_loop_rows(
    predictions: "OpenLoop", segments: Segments, scale: np.ndarray, reward_scale: float
) -> list[Row]:
    """Drift, disagreement and predicted terminations over several steps.

    Args:
      predictions: of N segments.
      segments: what really happened.
      scale: [O], unit of the errors.
      reward_scale: unit of the error of the reward.
    """
    valid = segments.valid
    drift = prediction_error.drift(
        predictions.next_observation, segments.start, segments.reached, valid, scale
    )
    steps = np.arange(1, valid.shape[1] + 1)
    reward = prediction_error.reward_error(predictions.reward, segments.reward, valid)
    rows = [("open_loop/segments", *row) for row in _curve(steps, drift.segments)]
    rows += [("open_loop/error", *row) for row in _curve(steps, reward / reward_scale, REWARD)]
    for name in ("error", "spread", "no_change"):
        values = getattr(drift, name)
        pooled = prediction_error.over_dimensions(values)
        rows += [(f"open_loop/{name}", *row) for row in _curve(steps, pooled)]
        for d, column in enumerate(values.T):
            rows += [(f"open_loop/{name}", *row) for row in _curve(steps, column, str(d))]
    last = np.count_nonzero(drift.segments >= prediction_error.FEWEST_ROWS) - 1
    if last > 0:  # `one_step_rows` has the first step, from more rows
        kept = valid[:, last]
        rows += _disagreement_rows(
            "open_loop",
            last + 1.0,
            predictions.next_observation[last][:, kept],
            segments.reached[kept, last],
            scale,
        )
    found = prediction_error.confusion(
        prediction_error.any_step(predictions.terminated, valid),
        prediction_error.any_step(segments.terminated.T, valid),
    )
    return rows + _termination_rows("open_loop", float(len(steps)), found)


def value_rows(estimates: np.ndarray, returns: np.ndarray) -> list[Row]:
    """Estimates [H + 1, N] of the value, by model steps, against Monte-Carlo returns [N]."""
    rows: list[Row] = [("value/positions", 0.0, ALL, len(returns))]
    if not len(returns):
        return rows
    rows += [
        ("value/return_mean", 0.0, ALL, returns.mean()),
        ("value/return_std", 0.0, ALL, returns.std()),
    ]
    errors = value_error.value_errors(estimates, returns)
    depths = np.arange(len(estimates))
    for name, values in zip(errors._fields, errors):
        rows += [(f"value/{name}", *row) for row in _curve(depths, values)]
    return rows


def return_rows(gap: ReturnGap, diverged: np.ndarray) -> list[Row]:
    """Return so far in model and environment, and how many rollouts (bool [K, N]) diverged."""
    steps = len(gap.gap)
    shown = np.unique(np.linspace(1, steps, min(steps, CURVE_POINTS)).round().astype(int))
    rows: list[Row] = [
        ("return/rollouts", float(steps), ALL, diverged.size),
        ("return/diverged", float(steps), ALL, diverged.sum()),
    ]
    for name, values in zip(gap._fields, gap):
        rows += [(f"return/{name}", *row) for row in _curve(shown, values[shown - 1])]
    return rows


def _likelihood_rows(
    mean: np.ndarray, log_variance: np.ndarray, target: np.ndarray, observation_size: int
) -> list[Row]:
    """Likelihood and calibration; targets that never vary are left out."""
    kept = prediction_error.varies(target)
    names = [str(d) for d in range(observation_size)] + [REWARD]  # no reward: zip leaves it out
    rows: list[Row] = [
        ("data/constant_target", 0.0, name, 1.0) for name, keep in zip(names, kept) if not keep
    ]
    if not kept.any():
        return rows
    names = [name for name, keep in zip(names, kept) if keep]
    target, log_variance = target[:, kept], log_variance[..., kept]
    z = calibration.standardised_errors(mean[..., kept], log_variance, target)
    elites, constant = calibration.elite_nll(z, log_variance), calibration.constant_nll(target)
    rows += [
        ("nll/elites", 1.0, ALL, elites.mean()),
        ("nll/mixture", 1.0, ALL, calibration.mixture_nll(z, log_variance)),
        ("nll/constant", 1.0, ALL, constant.mean()),
        ("calibration/overconfidence", 1.0, ALL, calibration.overconfidence(z)),
    ]
    for d, name in enumerate(names):
        rows += [
            ("nll/elites", 1.0, name, elites[d]),
            ("nll/constant", 1.0, name, constant[d]),
            ("calibration/z2", 1.0, name, np.square(z[..., d]).mean()),
        ]
    observed = _curve(calibration.LEVELS, calibration.coverage(z))
    return rows + [("calibration/coverage", *row) for row in observed]


def _disagreement_rows(
    kind: str, steps: float, predicted: np.ndarray, reached: np.ndarray, scale: np.ndarray
) -> list[Row]:
    disagreement, error = prediction_error.disagreement_and_error(predicted, reached, scale)
    correlation = prediction_error.rank_correlation(disagreement, error)
    deciles = prediction_error.error_by_decile(disagreement, error)
    rows: list[Row] = [(f"disagreement/{kind}_spearman", steps, ALL, correlation)]
    tenths = np.arange(1, len(deciles) + 1)
    return rows + [(f"disagreement/{kind}_error", *row) for row in _curve(tenths, deciles)]


def _termination_rows(kind: str, steps: float, found: prediction_error.Confusion) -> list[Row]:
    names = ("true_positives", "false_positives", "false_negatives", "precision", "recall")
    return [(f"termination/{kind}_{name}", steps, ALL, getattr(found, name)) for name in names]


def _curve(
    places: Iterable[float], values: Iterable[float], dimension: str = ALL
) -> list[tuple[float, str, float]]:
    return [(float(where), dimension, float(value)) for where, value in zip(places, values)]
