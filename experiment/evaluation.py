"""Greedy returns of a policy on environments of their own."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import envs
from experiment.actors import EVALUATION, episode_seed
from replay import Transition

DEFAULT_FRAMES_PER_SECOND = 30.0  # of an environment that does not say; Gymnasium assumes the same

Act = Callable[[np.ndarray], np.ndarray]
"""Observations [S, N, O] of S seeds and N episodes each to actions [S, N, A]; the observation of an
episode that is over is NaN. It may remember the observations before, so it is called once a step
and serves only one `play`."""

Step = list[tuple[int, int, Transition]]
"""Indices of seed and episode and the transition, of every episode that was still going on."""


class Evaluation(NamedTuple):
    """Statistics over the episodes of each seed."""

    returns: np.ndarray  # [S, N], undiscounted
    lengths: np.ndarray  # [S, N], steps


def remembering(act: Callable, policy: Any, memory: Any) -> Act:
    """Returns the policy of an agent with a seed axis, which keeps its memory between its calls.

    Args:
      act: `(policy, memory, observations) -> (actions, memory)`.
      policy: its parameters.
      memory: at the start of the episodes.
    """

    def next_actions(observations: np.ndarray) -> np.ndarray:
        nonlocal memory
        actions, memory = act(policy, memory, observations)
        return np.asarray(actions)

    return next_actions


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

    def run(self, act: Act, position: int) -> Evaluation:
        """Plays one episode in every environment; arguments as for `play`."""
        shape = len(self._envs), len(self._envs[0])
        returns, lengths = np.zeros(shape), np.zeros(shape, int)
        for step in self.play(act, position):
            for k, n, transition in step:
                returns[k, n] += transition.reward
                lengths[k, n] += 1
        return Evaluation(returns, lengths)

    def play(self, act: Act, position: int) -> Iterator[Step]:
        """Plays one episode in every environment; yields after each step of those still going on.

        Args:
          act: the policy, at the start of its episodes.
          position: where the run is, in environment steps; it sets the episodes' reset seeds.
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
        while running.any():
            actions = np.asarray(act(observations))
            step = []
            for k, n in np.argwhere(running).tolist():
                before, action = observations[k, n].copy(), actions[k, n]
                after, reward, terminated, truncated, _ = self._envs[k][n].step(action)
                transition = Transition(before, action, reward, after, terminated, truncated)
                step.append((k, n, transition))
                running[k, n] = not (terminated or truncated)
                observations[k, n] = after if running[k, n] else np.nan
            yield step

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
