"""The homework's cheetah: golden numbers, and the age of the torso's position."""

import gymnasium
import numpy as np
import pytest

# Of a separate build from the same asset, MuJoCo 4.0.0; other versions differ by up to 1e-3.
FIRST_REWARD = -19.800648931971992
SUM_OF_TEN = -199.80213232161626
TORSO_AFTER_TEN = (0.00348276, 0.0, 0.65533355)


@pytest.fixture
def environment() -> gymnasium.Env:
    environment = gymnasium.make("envs:cheetah-cs285-v0")
    environment.reset(seed=0)
    return environment


def test_golden_rollout(environment: gymnasium.Env) -> None:
    simulator = environment.unwrapped
    simulator.set_state(simulator.init_qpos, np.zeros(9))
    sign = [1.0, -1.0] * 5
    steps = [environment.step(np.full(6, 0.5 * s, np.float32)) for s in sign]
    rewards = [step[1] for step in steps]
    assert rewards[0] == pytest.approx(FIRST_REWARD, abs=1e-6)
    assert sum(rewards) == pytest.approx(SUM_OF_TEN, abs=1e-6)
    np.testing.assert_allclose(steps[-1][0][18:], TORSO_AFTER_TEN, rtol=0, atol=1e-8)


def test_the_observation_is_positions_velocities_and_torso(environment: gymnasium.Env) -> None:
    data = environment.unwrapped.data
    observation = environment.step(np.full(6, 0.3, np.float32))[0]
    np.testing.assert_array_equal(observation[:18], np.concatenate([data.qpos, data.qvel]))
    assert environment.unwrapped.dt == 0.01


def test_the_torso_is_where_it_was_one_step_ago(environment: gymnasium.Env) -> None:
    before = environment.reset(seed=1)[0]
    np.testing.assert_allclose(before[18:], [before[0], 0.0, 0.7 + before[1]], atol=1e-12)
    for t in range(20):
        after = environment.step(np.full(6, np.sin(t), np.float32))[0]
        # The torso hangs on the root's two slides, 0.7 m above their origin.
        np.testing.assert_allclose(after[18:], [before[0], 0.0, 0.7 + before[1]], atol=1e-12)
        assert abs(after[18] - after[0]) > 1e-5
        before = after


def test_starts_have_the_noise_of_the_homework(environment: gymnasium.Env) -> None:
    starts = np.stack([environment.reset(seed=seed)[0] for seed in range(200)])
    positions, velocities = starts[:, :9], starts[:, 9:18]
    assert 0.099 < abs(positions).max() <= 0.1
    assert velocities.std() == pytest.approx(0.1, rel=0.1)
    assert abs(velocities).max() > 0.2


def test_info_has_the_terms_of_the_reward_and_the_distance_run(environment: gymnasium.Env) -> None:
    for _ in range(20):
        observation, reward, terminated, _, info = environment.step(
            environment.action_space.sample()
        )
        assert not terminated
        assert info["score"] == observation[0]
        names = ("reward_run", "reward_leg", "reward_shin", "reward_foot")
        assert sum(info[name] for name in names) == pytest.approx(reward)


def test_a_random_policy_gets_the_known_return(environment: gymnasium.Env) -> None:
    mean, deviation, episodes = -2487.0, 483.0, 40  # measured on a separate build
    environment.action_space.seed(0)
    returns = []
    for seed in range(8):
        environment.reset(seed=seed)
        steps = [environment.step(environment.action_space.sample()) for _ in range(500)]
        assert [step[3] for step in steps] == [False] * 499 + [True]
        returns.append(sum(step[1] for step in steps))
    error = deviation * np.sqrt(1 / len(returns) + 1 / episodes)
    assert abs(np.mean(returns) - mean) < 3 * error
