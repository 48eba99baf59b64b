"""What is cut out of whole real episodes: segments of a few steps, and discounted returns."""

import numpy as np

from analysis import value_error
from analysis.diagnosis_table import Segments
from replay import Transition

Episodes = list[Transition]
"""The episodes of one seed, each [T, ...]."""


def join(episodes: Episodes) -> Transition:
    """Returns the transitions of all episodes, end to end."""
    return Transition(*(np.concatenate(field) for field in zip(*episodes)))


def cut(episodes: Episodes, horizon: int, starts: np.ndarray) -> Segments:
    """Cuts real segments of up to `horizon` steps out of episodes.

    Args:
      episodes: each [T, ...].
      horizon: H.
      starts: int [N], positions in the episodes joined end to end; -1 gives a segment of no step.
    """
    joined = join(episodes)
    ends = np.cumsum([len(episode.reward) for episode in episodes])
    own_end = ends[np.searchsorted(ends, starts, side="right")]
    step = starts[:, None] + np.arange(horizon)
    valid = (step < own_end[:, None]) & (starts >= 0)[:, None]
    step = np.clip(step, 0, ends[-1] - 1)
    return Segments(
        joined.observation[step[:, 0]],
        joined.action[step],
        joined.next_observation[step],
        joined.reward[step],
        joined.terminated[step] > 0,
        valid,
    )


def monte_carlo(
    episodes: Episodes, bonus: np.ndarray, last_value: np.ndarray, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the discounted soft return [N] from every position, and which of them count.

    Args:
      episodes: each [T, ...], N steps in all.
      bonus: [N], temperature times the estimated entropy at every state.
      last_value: value of the state after each episode, used where a time limit cut it.
      discount: gamma.
    """
    returns, counted = [], []
    bonuses = np.split(bonus, np.cumsum([len(episode.reward) for episode in episodes])[:-1])
    for episode, own, last in zip(episodes, bonuses, last_value):
        terminated = bool(episode.terminated[-1])
        tail = 0.0 if terminated else float(last)
        returns.append(value_error.soft_returns(episode.reward, own, discount, tail))
        weights = value_error.tail_weights(len(own), discount, terminated)
        counted.append(weights <= value_error.LARGEST_TAIL)
    return np.concatenate(returns), np.concatenate(counted)
