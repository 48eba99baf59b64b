"""Greedy returns of a policy on environments of their own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import envs
from experiment.actors import EVALUATION, episode_seed


class Evaluation(NamedTuple):
    """Statistics over the episodes of each seed."""

    returns: np.ndarray  # [S, N], undiscounted
    lengths: np.ndarray  # [S, N], steps


class Evaluator:
    """N environments per seed, acted on as one batch."""

    def __init__(self, env_id: str, seeds: list[int], episodes: int) -> None:
        self._seeds = seeds
        self._envs = [[envs.make(env_id) for _ in range(episodes)] for _ in seeds]

    def run(self, act: Callable[[np.ndarray], np.ndarray], position: int) -> Evaluation:
        """Plays one episode in every environment.

        Args:
          act: greedy policy, observations [S, N, O] to actions [S, N, A].
          position: where the run is, in environment steps; it sets the episodes' reset seeds.
        """
        observations = np.stack(
            [
                [
                    env.reset(seed=episode_seed(seed, EVALUATION, position, n))[0]
                    for n, env in enumerate(row)
                ]
                for seed, row in zip(self._seeds, self._envs, strict=True)
            ]
        )
        running = np.ones(observations.shape[:2], bool)
        returns, lengths = np.zeros(running.shape), np.zeros(running.shape, int)
        while running.any():
            actions = np.asarray(act(observations))
            for k, n in np.argwhere(running):
                observation, reward, terminated, truncated, _ = self._envs[k][n].step(actions[k, n])
                observations[k, n] = observation
                returns[k, n] += reward
                lengths[k, n] += 1
                running[k, n] = not (terminated or truncated)
        return Evaluation(returns, lengths)

    def close(self) -> None:
        """Frees the simulators."""
        for row in self._envs:
            for env in row:
                env.close()
