"""Estimated values and model returns against what really came in.

Shapes: K rollouts from each of N states or episodes, H model steps. The value of a state is soft:
the expected sum of discount^k (reward_k + temperature entropy_k), the entropy at that state
included, as in Haarnoja et al. 2018b.
"""

from typing import NamedTuple

import numpy as np

from analysis.statistics import FEWEST_FOR_INTERVAL, t_interval

LARGEST_TAIL = 0.2  # discount left where a time limit cut an episode, of a return that counts


class ValueErrors(NamedTuple):
    """Of estimates against Monte-Carlo returns, by model steps before the critic; NaN if no row."""

    bias: np.ndarray  # [H + 1], mean of estimate minus return
    rmse: np.ndarray  # [H + 1]
    correlation: np.ndarray  # [H + 1], Pearson's; NaN if one side is constant


class ReturnGap(NamedTuple):
    """Undiscounted return up to each step; [T], NaN where no episode counts."""

    environment: np.ndarray  # mean over episodes
    model: np.ndarray  # mean over episodes of the mean over their rollouts
    environment_half_width: np.ndarray  # of the 95 % interval of the mean; NaN for few episodes
    model_half_width: np.ndarray
    gap: np.ndarray  # model minus environment
    gap_half_width: np.ndarray  # of differences from the same start


def soft_returns(reward: np.ndarray, bonus: np.ndarray, discount: float, tail: float) -> np.ndarray:
    """Returns the discounted return [T] from every step of one episode on.

    Args:
      reward: [T].
      bonus: [T], temperature times a one-sample estimate of the entropy at the step's state.
      discount: gamma.
      tail: value of the state after the last step: 0 if the episode terminated.
    """
    returns = np.empty(len(reward))
    for t in reversed(range(len(reward))):
        tail = returns[t] = reward[t] + bonus[t] + discount * tail
    return returns


def tail_weights(steps: int, discount: float, terminated: bool) -> np.ndarray:
    """Returns which part [T] of every return rests on the value after the last step.

    discount^(T - t) at step t of an episode that was cut after T = `steps`, 0 if it terminated.
    """
    return np.zeros(steps) if terminated else discount ** np.arange(steps, 0.0, -1.0)


def model_values(
    reward: np.ndarray,
    bonus: np.ndarray,
    alive: np.ndarray,
    value: np.ndarray,
    diverged: np.ndarray,
    discount: float,
) -> np.ndarray:
    """Returns estimates [H + 1, N] of the value: 0 to H model steps, then the critic.

    Args:
      reward: [H, K, N].
      bonus: [H, K, N], temperature times minus the log-probability of the action taken.
      alive: bool [H + 1, K, N], steps before a termination.
      value: [H + 1, K, N], the learner's own value of the states reached.
      diverged: bool [K, N], rollouts to leave out.
      discount: gamma.

    Returns:
      The mean over the rollouts of a state; NaN if all of them diverged.
    """
    counted = alive & ~diverged
    weight = discount ** np.arange(len(value), dtype=float)[:, None, None]
    gained = np.where(counted[:-1], reward + bonus, 0.0) * weight[:-1]
    before = np.concatenate([np.zeros((1, *diverged.shape)), np.cumsum(gained, axis=0)])
    return _mean_of_rollouts(before + weight * np.where(counted, value, 0.0), diverged)


def value_errors(estimates: np.ndarray, returns: np.ndarray) -> ValueErrors:
    """Compares estimates [H + 1, N] with returns [N]; estimates that are NaN are left out."""
    rows = []
    for estimate in estimates:
        kept = np.isfinite(estimate)
        error = estimate[kept] - returns[kept]
        if not error.size:
            rows.append((np.nan, np.nan, np.nan))
            continue
        correlation = _correlation(estimate[kept], returns[kept])
        rows.append((error.mean(), np.sqrt(np.square(error).mean()), correlation))
    return ValueErrors(*np.array(rows, float).T)


def return_gap(
    real: list[tuple[np.ndarray, bool]],
    reward: np.ndarray,
    alive: np.ndarray,
    diverged: np.ndarray,
) -> ReturnGap:
    """Compares model rollouts with the real episodes from the same first states, step by step.

    An episode that terminated keeps its return; one that a time limit cut counts up to that step,
    on both sides. Episodes all of whose rollouts diverged count on neither.

    Args:
      real: rewards [T_n] of every episode, and whether it terminated.
      reward: [T, K, N], of the rollouts.
      alive: bool [T, K, N].
      diverged: bool [K, N], rollouts to leave out.
    """
    steps = len(reward)
    so_far = np.cumsum(np.where(alive & ~diverged, reward, 0.0), axis=0, dtype=float)
    model = _mean_of_rollouts(so_far, diverged)
    environment = np.full_like(model, np.nan)
    for n, (rewards, terminated) in enumerate(real):
        total = np.cumsum(rewards, dtype=float)
        environment[: len(total), n] = total
        if terminated:
            environment[len(total) :, n] = total[-1]
    columns = np.empty((len(ReturnGap._fields), steps))
    for t in range(steps):
        kept = np.isfinite(model[t]) & np.isfinite(environment[t])
        sides = environment[t, kept], model[t, kept], model[t, kept] - environment[t, kept]
        means = [side.mean() if side.size else np.nan for side in sides]
        enough = kept.sum() >= FEWEST_FOR_INTERVAL
        widths = [t_interval(side) if enough else np.nan for side in sides]
        columns[:, t] = [*means[:2], *widths[:2], means[2], widths[2]]
    return ReturnGap(*columns)


def _mean_of_rollouts(x: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Returns the mean [H, N] over the rollouts of x [H, K, N] that did not diverge, else NaN."""
    total = np.where(diverged, 0.0, x).sum(axis=1)
    counts = (~diverged).sum(axis=0).astype(float)
    return np.where(counts > 0, total / np.maximum(counts, 1.0), np.nan)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])
