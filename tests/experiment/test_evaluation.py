import gymnasium
import numpy as np
import pytest

from envs import register, terminations
from experiment.actors import EVALUATION, episode_seed
from experiment.evaluation import Evaluator


class Draw(gymnasium.Env):
    """The reset draws how long the episode takes, and whether it terminates; reward: the action."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = self._length = int(self.np_random.integers(1, 12))
        self._terminates = bool(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action):
        assert self._left > 0, "stepped after the end of the episode"
        self._left -= 1
        over = self._left == 0
        flags = over and self._terminates, over and not self._terminates
        return self._observation(), float(action[0]), *flags, {}

    def _observation(self):
        return np.array([self._length, self._left], np.float32)


register("Draw-v0", termination=terminations.never, make=Draw)


def drawn(seed, position, episode):
    """Returns the length of one episode from Gymnasium's own generator."""
    number = episode_seed(seed, EVALUATION, position, episode)
    generator, _ = gymnasium.utils.seeding.np_random(number)
    return int(generator.integers(1, 12))


def test_returns_and_lengths_are_those_of_each_episode():
    seeds, episodes = [4, 9], 6
    evaluator = Evaluator("Draw-v0", seeds, episodes)
    action = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(2, episodes, 1)
    evaluation = evaluator.run(lambda observations: action, position=300)
    lengths = np.array([[drawn(seed, 300, n) for n in range(episodes)] for seed in seeds])
    assert len(np.unique(lengths)) > 3
    np.testing.assert_array_equal(evaluation.lengths, lengths)
    np.testing.assert_allclose(evaluation.returns, lengths * action[..., 0], rtol=1e-6)


def test_the_policy_sees_the_current_observations():
    # reward (steps left) / 20, hence (L + (L - 1) + ... + 1) / 20 over an episode
    evaluator = Evaluator("Draw-v0", [0], 8)
    evaluation = evaluator.run(lambda observations: observations[..., 1:] / 20, position=0)
    lengths = evaluation.lengths
    np.testing.assert_allclose(evaluation.returns, lengths * (lengths + 1) / 40, rtol=1e-5)
    assert len(np.unique(lengths)) > 3


def test_the_policy_sees_no_observation_of_an_episode_that_is_over():
    running = []

    def act(observations):
        assert (np.isnan(observations).any(-1) == np.isnan(observations).all(-1)).all()
        running.append((~np.isnan(observations[0, :, 0])).sum())
        return np.zeros((1, 8, 1), np.float32)

    lengths = Evaluator("Draw-v0", [0], 8).run(act, position=0).lengths
    assert running == [(lengths > time).sum() for time in range(lengths.max())]


def test_episodes_depend_on_seed_and_position_alone():
    def lengths(seeds, position):
        evaluator = Evaluator("Draw-v0", seeds, 20)
        first = evaluator.run(lambda observations: observations[..., :1] * 0, position).lengths
        again = evaluator.run(lambda observations: observations[..., :1] * 0, position).lengths
        np.testing.assert_array_equal(first, again)
        return first.tolist()

    together = lengths([0, 1], 100)
    assert together[0] != together[1]
    assert lengths([1], 100) == [together[1]]
    assert lengths([1], 200) != [together[1]]


def test_each_step_lists_the_transitions_of_the_episodes_still_going_on():
    seeds, episodes = [4, 9], 3
    lengths = [[drawn(seed, 300, n) for n in range(episodes)] for seed in seeds]
    evaluator = Evaluator("Draw-v0", seeds, episodes)
    steps = evaluator.play(lambda observations: observations[..., 1:] / 20, position=300)
    time = 0
    for time, step in enumerate(steps, start=1):
        running = [(k, n) for k in range(2) for n in range(episodes) if lengths[k][n] >= time]
        assert [(k, n) for k, n, _ in step] == running
        for k, n, transition in step:
            left = lengths[k][n] - time
            np.testing.assert_array_equal(transition.observation, [lengths[k][n], left + 1])
            np.testing.assert_array_equal(transition.next_observation, [lengths[k][n], left])
            assert transition.reward == transition.action == np.float32((left + 1) / 20)
            assert (transition.terminated or transition.truncated) == (left == 0)
    assert time == max(map(max, lengths)) > min(map(min, lengths))


@pytest.mark.parametrize("episodes", [1, 3])
def test_shapes(episodes):
    evaluation = Evaluator("Draw-v0", [0, 1], episodes).run(
        lambda observations: np.zeros((2, episodes, 1), np.float32), 0
    )
    assert evaluation.returns.shape == evaluation.lengths.shape == (2, episodes)
