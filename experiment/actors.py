"""The environments of a training run: one per seed, in lockstep, able to resume exactly."""

from typing import NamedTuple

import gymnasium
import numpy as np

import envs
from errors import UserError
from replay import Transition

TRAINING, EVALUATION, TEST, DIAGNOSIS = range(4)  # streams of episode seeds


def episode_seed(seed: int, stream: int, *position: int) -> int:
    """Returns the reset seed of one episode, a function of nothing but its place in the run."""
    return int(np.random.SeedSequence([seed, stream, *position]).generate_state(1)[0])


def not_finite(
    env_id: str,
    seed: int,
    episode: int,
    step: int,
    reward: np.floating,
    observation: np.ndarray,
) -> UserError:
    """Returns what to raise when an environment returns numbers that are not finite."""
    return UserError(
        f"{env_id} returned a reward or observation that is not finite (seed {seed}, episode "
        f"{episode}, step {step}): reward {reward}, observation {observation}. Fix the "
        "environment, then run the same command again: it resumes from the last checkpoint."
    )


class Finished(NamedTuple):
    """A training episode that has ended."""

    total: float  # its undiscounted return
    length: int  # steps


class Actors:
    """S training environments.

    Resuming replays the actions of the episodes under way from their seeded resets, so that no
    internals of a simulator have to be stored.
    """

    def __init__(self, env_id: str, seeds: list[int]) -> None:
        self._env_id = env_id
        self._seeds = seeds
        self._envs: list[gymnasium.Env] = [envs.make(env_id) for _ in seeds]
        self._episodes = [0] * len(seeds)
        self._actions: list[list[np.ndarray]] = [[] for _ in seeds]  # of the episodes under way
        self._rewards: list[list[float]] = [[] for _ in seeds]  # likewise
        self._finished: list[list[Finished]] = [[] for _ in seeds]
        self.observation = np.stack([self._reset(k) for k in range(len(seeds))])  # [S, O]

    def step(self, actions: np.ndarray) -> Transition:
        """Applies actions [S, A]; returns what happened [S, ...] and moves `observation` on.

        `observation` then holds what to act on next: after the end of an episode, that is the first
        observation of a new one.

        Raises:
          UserError: a reward or an observation is not finite.
        """
        results = [self._step_one(k, action) for k, action in enumerate(actions)]
        transition = Transition(*(np.stack(field) for field in zip(*results, strict=True)))
        over = (transition.terminated > 0) | (transition.truncated > 0)
        self.observation = transition.next_observation.copy()
        for k in np.flatnonzero(over).tolist():
            self._finished[k].append(Finished(sum(self._rewards[k]), len(self._rewards[k])))
            self._episodes[k] += 1
            self.observation[k] = self._reset(k)
        return transition

    def _step_one(self, k: int, action: np.ndarray) -> Transition:
        next_observation, reward, terminated, truncated, _ = self._envs[k].step(action)
        self._actions[k].append(action)
        with np.errstate(over="ignore"):
            reward = np.float32(reward)
        if not (np.isfinite(reward) and np.isfinite(next_observation).all()):
            place = self._seeds[k], self._episodes[k], len(self._actions[k])
            raise not_finite(self._env_id, *place, reward, next_observation)
        self._rewards[k].append(float(reward))
        return Transition(
            self.observation[k],
            action,
            reward,
            next_observation,
            np.float32(terminated),
            np.float32(truncated),
        )

    def _reset(self, k: int) -> np.ndarray:
        self._actions[k], self._rewards[k] = [], []
        seed = episode_seed(self._seeds[k], TRAINING, self._episodes[k])
        return self._envs[k].reset(seed=seed)[0]

    def take_finished(self) -> list[list[Finished]]:
        """Returns, by seed, the episodes that have ended since the last call, and forgets them."""
        finished, self._finished = self._finished, [[] for _ in self._seeds]
        return finished

    def log(self) -> dict[str, np.ndarray | list[int]]:
        """Returns what `restore` needs: episode numbers and the actions of the current episodes."""
        action_shape = self._envs[0].action_space.shape or ()
        actions = {
            f"actions_{k}": np.asarray(log, np.float32).reshape(-1, *action_shape)
            for k, log in enumerate(self._actions)
        }
        return {"episodes": list(self._episodes), "observation": self.observation, **actions}

    def restore(self, log: dict) -> None:
        """Brings the environments to where `log` was taken, by replaying the current episodes.

        Raises:
          UserError: if an environment does not arrive at the observation it had.
        """
        self._episodes = [int(episode) for episode in log["episodes"]]
        for k, env in enumerate(self._envs):
            observation = self._reset(k)
            for action in log[f"actions_{k}"]:
                observation, reward, *_ = env.step(action)
                self._actions[k].append(action)
                self._rewards[k].append(float(np.float32(reward)))
            if not np.array_equal(observation, log["observation"][k]):
                raise UserError(
                    f"{self._env_id} does not repeat itself: after the same seed and actions seed "
                    f"{self._seeds[k]} is elsewhere than when the checkpoint was written. The run "
                    "cannot be resumed exactly; the environment, or its simulator's version, "
                    "changed, or it draws random numbers that reset(seed=...) does not control."
                )
            self.observation[k] = observation

    def close(self) -> None:
        """Frees the simulators."""
        for env in self._envs:
            env.close()
