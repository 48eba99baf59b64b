"""Whole episodes of a policy in the real environment, for whoever looks at more than returns."""

import numpy as np

from experiment.evaluation import Act, Evaluator
from replay import Transition


def collect(
    env_id: str, seeds: list[int], episodes: int, act: Act, *, stream: int, position: int
) -> list[list[Transition]]:
    """Plays whole episodes and returns everything that happened.

    Args:
      env_id: a registered id.
      seeds: of the policies, S of them.
      episodes: N, played by each.
      act: the policy.
      stream: sets the episodes' reset seeds apart from those of other streams.
      position: where the run is, in environment steps; it sets the reset seeds too.

    Returns:
      By seed and episode, transitions [T, ...] in the order of time.
    """
    steps: list[list[list[Transition]]] = [[[] for _ in range(episodes)] for _ in seeds]
    evaluator = Evaluator(env_id, seeds, episodes, stream=stream)
    for step in evaluator.play(act, position):
        for k, n, transition in step:
            steps[k][n].append(transition)
    evaluator.close()
    return [[_stack(episode) for episode in row] for row in steps]


def _stack(steps: list[Transition]) -> Transition:
    return Transition(*(np.asarray(field, np.float32) for field in zip(*steps, strict=True)))
