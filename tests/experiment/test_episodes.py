import numpy as np

from experiment import episodes as real
from replay import Transition


def episode(first, steps, terminated):
    x = first + np.arange(steps, dtype=np.float32)
    end = np.zeros(steps, np.float32)
    end[-1] = 1.0
    return Transition(
        x[:, None], 10 + x[:, None], x, x[:, None] + 1, end * terminated, end * (not terminated)
    )


def test_segments_end_where_their_episode_does():
    episodes = [episode(0, 3, True), episode(100, 2, False)]
    segments = real.cut(episodes, 2, np.array([0, 2, 3, 4, -1]))
    assert segments.start[:4, 0].tolist() == [0, 2, 100, 101]
    assert segments.valid.tolist() == [
        [True, True],
        [True, False],
        [True, True],
        [True, False],
        [False, False],
    ]
    assert segments.reached[0, :, 0].tolist() == [1, 2]
    assert segments.action[2, :, 0].tolist() == [110, 111]
    assert segments.reward[2].tolist() == [100, 101]
    assert (segments.terminated & segments.valid).tolist() == [
        [False, False],
        [True, False],
        [False, False],
        [False, False],
        [False, False],
    ]


def test_returns_count_only_where_little_is_left_to_the_critic():
    # 0.5 ** 3 and 0.5 ** 2 to the cut: 0.125 counts, 0.25 does not; a termination cuts nothing.
    episodes = [episode(1, 3, False), episode(1, 2, True)]
    returns, counted = real.monte_carlo(
        episodes, np.array([0, 0, 0, 8.0, 0]), np.array([16.0, 99.0]), discount=0.5
    )
    np.testing.assert_allclose(returns, [4.75, 7.5, 11.0, 10.0, 2.0])
    assert counted.tolist() == [True, False, False, True, True]
