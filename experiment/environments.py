"""The environments of a run as the driver sees them, and those that run on the host."""

from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from agents.base import AgentState, Metrics
from experiment.actors import Actors, Finished
from experiment.evaluation import Evaluation, Evaluator, remembering
from experiment.seeds import LiftedAgent
from experiment.stopwatch import Stopwatch


class Environments(Protocol):
    """S training environments with an agent in them, and those its policy is evaluated on."""

    @property
    def action(self) -> np.ndarray | jax.Array:
        """Actions [S, A], chosen for the next step."""

    def begin(self, state: AgentState) -> AgentState:
        """Chooses the first actions."""

    def explore(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Acts without learning; see `learn`."""

    def learn(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Acts and learns for as many steps as suit it, at least 1.

        Args:
          state: of the agent, with a leading seed axis; it is donated.
          at_most: environment steps per seed that may be done.

        Returns:
          The new state, the agent's metrics [S] summed over steps, and the number of steps.

        Raises:
          UserError: a reward or an observation is not finite.
        """

    def evaluate(self, policy: Any, position: int) -> Evaluation:
        """Plays greedy episodes, which depend on the policy and `position` (`env_step`) alone."""

    def training_episodes(self) -> list[dict[str, float]]:
        """Returns `train/return` and `train/length` of each seed: means over what ended since last.

        Nothing of a seed of which no training episode has ended since the last call.
        """

    def log(self) -> dict[str, Any]:
        """Returns what `restore` needs, as `storage.save_dict` accepts it."""

    def restore(self, log: dict[str, Any]) -> None:
        """Brings the training environments and the action to where `log` was taken."""

    def close(self) -> None:
        """Frees what the environments hold."""


class HostEnvironments:
    """Environments with an interface for Python, which are stepped one step at a time."""

    def __init__(
        self, config: ConfigDict, agent: LiftedAgent, seeds: list[int], watch: Stopwatch
    ) -> None:
        self._agent, self._watch = agent, watch
        self._actors = Actors(config.env, seeds)
        self._episodes = config.eval_episodes
        self._evaluator = Evaluator(config.env, seeds, self._episodes)

    def begin(self, state: AgentState) -> AgentState:
        """Chooses the first actions."""
        state, action = self._agent.explore(state, self._actors.observation)
        self.action = np.asarray(action)
        return state

    def explore(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Does one step without learning."""
        with self._watch("environment"):
            state = self._agent.observe(state, self._actors.step(self.action))
            return self.begin(state), {}, 1

    def learn(self, state: AgentState, at_most: int) -> tuple[AgentState, Metrics, int]:
        """Does one step and everything the agent learns from it."""
        with self._watch("environment"):
            transition = self._actors.step(self.action)
        with self._watch("policy"):
            state, action, metrics = self._agent.step(state, transition, self._actors.observation)
            self.action = np.asarray(action)
        return state, metrics, 1

    def evaluate(self, policy: Any, position: int) -> Evaluation:
        """Plays one greedy episode in every evaluation environment."""
        memory = self._agent.begin(policy, self._episodes)
        return self._evaluator.run(remembering(self._agent.act, policy, memory), position)

    def training_episodes(self) -> list[dict[str, float]]:
        """Returns means over the training episodes that have ended since the last call."""
        return [_means(finished) for finished in self._actors.take_finished()]

    def log(self) -> dict[str, Any]:
        """Returns the action and what `Actors.restore` needs."""
        return {"action": self.action, **self._actors.log()}

    def restore(self, log: dict[str, Any]) -> None:
        """Replays the episodes under way; raises as `Actors.restore` does."""
        self._actors.restore(log)
        self.action = log["action"]

    def close(self) -> None:
        """Frees the simulators."""
        self._actors.close()
        self._evaluator.close()


def _means(finished: list[Finished]) -> dict[str, float]:
    if not finished:
        return {}
    totals, lengths = zip(*finished)
    return {"train/return": float(np.mean(totals)), "train/length": float(np.mean(lengths))}
