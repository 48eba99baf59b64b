import numpy as np

from experiment.actors import DIAGNOSIS, TEST, episode_seed
from experiment.trajectories import collect
from tests.integration import tiny

STEPS = 4


def act(observations):
    """The action says which seed and episode it was chosen for, and when."""
    seeds, episodes, _ = observations.shape
    place = np.arange(seeds)[:, None] / 2 + np.arange(episodes)[None] / 8
    return (place + observations[..., 1] / 100)[..., None].astype(np.float32)


def test_every_step_of_every_episode_is_kept_in_order():
    env = tiny.register_clock("Collected-v0", STEPS, terminates=True)
    episodes = collect(env, [3, 8], 3, act, stream=TEST, position=7)
    assert [len(row) for row in episodes] == [3, 3]
    for k, row in enumerate(episodes):
        for n, episode in enumerate(row):
            np.testing.assert_array_equal(episode.observation[:, 1], np.arange(STEPS))
            np.testing.assert_array_equal(episode.next_observation[:, 1], np.arange(1, STEPS + 1))
            np.testing.assert_array_equal(episode.reward, np.arange(1, STEPS + 1))
            np.testing.assert_array_equal(episode.terminated, [0, 0, 0, 1])
            np.testing.assert_array_equal(episode.truncated, np.zeros(STEPS))
            expected = k / 2 + n / 8 + np.arange(STEPS) / 100
            np.testing.assert_allclose(episode.action[:, 0], expected, rtol=1e-6)


def test_resets_depend_on_seed_stream_position_and_episode():
    env = tiny.register_clock("Collected-v1", STEPS, terminates=False)

    def draws(seeds, stream, position):
        return [
            episode.observation[0, 0]
            for row in collect(env, seeds, 2, act, stream=stream, position=position)
            for episode in row
        ]

    places = [([0, 1], TEST, 5), ([0, 1], DIAGNOSIS, 5), ([0, 1], TEST, 6), ([2, 3], TEST, 5)]
    every = [draw for place in places for draw in draws(*place)]
    assert len(set(every)) == len(every) == 16
    assert draws(*places[0]) == every[:4]
    generator = np.random.Generator(np.random.PCG64(episode_seed(1, TEST, 5, 0)))
    assert every[2] == np.float32(generator.random())
