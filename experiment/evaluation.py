"""Greedy returns of a policy on environments of their own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import envs
from experiment.actors import EVALUATION, episode_seed
from replay import Transition

DEFAULT_FRAMES_PER_SECOND = 30.0  # of an environment that does not say; Gymnasium assumes the same

Act = Callable[[np.ndarray], np.ndarray]
"""Observations [S, N, O] of S seeds and N episodes each to actions [S, N, A]."""

OnStep = Callable[[int, int, Transition], None]
"""Called with the indices of seed and episode and the transition, after every step."""


class Evaluation(NamedTuple):
    """Statistics over the episodes of each seed."""

    returns: np.ndarray  # [S, N], undiscounted
    lengths: np.ndarray  # [S, N], steps


class Evaluator:
    """N environments per seed, acted on as one batch."""

    def __init__(
        self,
        env_id: str,
        seeds: list[int],
        episodes: int,
        *,
        stream: int = EVALUATION,
        render_mode: str | None = None,
    ) -> None:
        """Creates the environments.

        Args:
          env_id: a registered id.
          seeds: of the policies, S of them.
          episodes: N, played by each.
          stream: sets the episodes' reset seeds apart from those of other streams.
          render_mode: of the environments, for instance "rgb_array".
        """
        self._seeds = seeds
        self._stream = stream
        self._envs = [[envs.make(env_id, render_mode) for _ in range(episodes)] for _ in seeds]

    def run(self, act: Act, position: int, on_step: OnStep | None = None) -> Evaluation:
        """Plays one episode in every environment.

        Args:
          act: the policy.
          position: where the run is, in environment steps; it sets the episodes' reset seeds.
          on_step: told about every step.
        """
        observations = np.stack(
            [
                [
                    env.reset(seed=episode_seed(seed, self._stream, position, n))[0]
                    for n, env in enumerate(row)
                ]
                for seed, row in zip(self._seeds, self._envs, strict=True)
            ]
        )
        running = np.ones(observations.shape[:2], bool)
        returns, lengths = np.zeros(running.shape), np.zeros(running.shape, int)
        while running.any():
            actions = np.asarray(act(observations))
            for k, n in np.argwhere(running).tolist():
                result = self._envs[k][n].step(actions[k, n])
                next_observation, reward, terminated, truncated, _ = result
                if on_step is not None:
                    step = observations[k, n].copy(), actions[k, n], reward, next_observation
                    on_step(k, n, Transition(*step, terminated, truncated))
                observations[k, n] = next_observation
                returns[k, n] += reward
                lengths[k, n] += 1
                running[k, n] = not (terminated or truncated)
        return Evaluation(returns, lengths)

    def render(self, k: int, n: int) -> np.ndarray:
        """Returns the picture [H, W, 3] of episode `n` of seed `k`, as its render mode has it."""
        return np.asarray(self._envs[k][n].render())

    def frames_per_second(self) -> float:
        """Returns the rate of pictures at which the environment runs in real time."""
        return float(self._envs[0][0].metadata.get("render_fps", DEFAULT_FRAMES_PER_SECOND))

    def close(self) -> None:
        """Frees the simulators."""
        for row in self._envs:
            for env in row:
                env.close()
