"""The homework's arm: golden numbers, its model, and the age of the finger's position."""

import gymnasium
import mujoco
import numpy as np
import pytest

# Of a separate build from the same table, MuJoCo 4.0.0; other versions differ by up to 1e-3.
FIRST_REWARD = -10.097136115009542
SUM_OF_TEN = -100.85085210727821
STILL_EPISODE = -2019.7435
BODY_MASSES = (
    0.0,
    24.311738,
    10.471976,
    0.284838,
    5.428672,
    1.357168,
    0.284838,
    2.809107,
    0.016755,
    2.144661,
)
TARGET = (0.1, 0.1, 0.1)


@pytest.fixture
def environment() -> gymnasium.Env:
    environment = gymnasium.make("envs:reacher-cs285-v0")
    environment.reset(seed=0)
    return environment


def finger(model: mujoco.MjModel, angles: np.ndarray) -> np.ndarray:
    """Where the finger is [3] at joint angles [7], by kinematics of our own."""
    data = mujoco.MjData(model)
    data.qpos[:] = angles
    mujoco.mj_kinematics(model, data)
    return data.site("finger").xpos


def test_golden_rollout(environment: gymnasium.Env) -> None:
    sign = [1.0, -1.0] * 5
    rewards = [environment.step(np.full(7, 0.5 * s, np.float32))[1] for s in sign]
    assert rewards[0] == pytest.approx(FIRST_REWARD, abs=1e-6)
    assert sum(rewards) == pytest.approx(SUM_OF_TEN, abs=1e-6)


def test_an_episode_without_torque(environment: gymnasium.Env) -> None:
    steps = [environment.step(np.zeros(7, np.float32)) for _ in range(200)]
    assert sum(step[1] for step in steps) == pytest.approx(STILL_EPISODE, abs=1e-4)
    assert [step[2:4] for step in steps] == [(False, False)] * 199 + [(False, True)]
    observation, *_, info = steps[-1]
    assert info["distance"] == np.linalg.norm(observation[14:17] - TARGET)


def test_the_model_has_the_masses_and_the_reach_of_the_original(environment: gymnasium.Env) -> None:
    model = environment.unwrapped.model
    np.testing.assert_allclose(model.body_mass, BODY_MASSES, atol=1e-6)
    np.testing.assert_allclose(finger(model, np.zeros(7)), [0.821, -0.6, 0.0], atol=1e-12)
    assert environment.unwrapped.dt == 0.02


def test_the_joints_are_limited_and_driven_like_the_original(environment: gymnasium.Env) -> None:
    model = environment.unwrapped.model
    lower = [-2.2854, -0.5236, -1.5, -2.3213, -1.5, -1.094, -1.5]
    upper = [1.714602, 1.3963, 1.7, 0.0, 1.5, 0.0, 1.5]
    np.testing.assert_array_equal(model.jnt_range.T, [lower, upper])
    assert model.jnt_limited.all()
    np.testing.assert_array_equal(model.dof_damping, [2.0, 2.0, 0.8, 0.8, 0.8, 0.8, 0.8])
    np.testing.assert_array_equal(model.actuator_gear[:, 0], [20.0] + [10.0] * 6)
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1.0, 1.0]] * 7)


def test_the_arm_bends_like_the_original(environment: gymnasium.Env) -> None:
    def bent(joint: int, angle: float) -> np.ndarray:
        return finger(environment.unwrapped.model, angle * np.eye(7)[joint])

    # Shoulder at (0, -0.6, 0), its second axis and the rolls 0.1 m and the elbow 0.5 m further.
    quarter = np.pi / 2
    np.testing.assert_allclose(bent(0, quarter), [0.0, 0.221, 0.0], atol=1e-12)
    np.testing.assert_allclose(bent(1, quarter), [0.1, -0.6, -0.721], atol=1e-12)
    np.testing.assert_allclose(bent(3, -quarter), [0.5, -0.6, 0.321], atol=1e-12)
    for roll_or_wrist in (2, 4, 5, 6):
        np.testing.assert_allclose(bent(roll_or_wrist, 1.0), [0.821, -0.6, 0.0], atol=1e-12)


def test_the_observation_has_slow_velocities_and_the_target(environment: gymnasium.Env) -> None:
    data = environment.unwrapped.data
    for _ in range(5):
        observation = environment.step(np.full(7, -0.5, np.float32))[0]
    np.testing.assert_array_equal(observation[:14], np.concatenate([data.qpos, data.qvel / 10.0]))
    np.testing.assert_array_equal(observation[17:], TARGET)
    assert abs(data.qvel).max() > 0.1


def test_the_finger_is_where_it_was_one_substep_ago(environment: gymnasium.Env) -> None:
    model, data = environment.unwrapped.model, environment.unwrapped.data
    for _ in range(10):
        observation = environment.step(np.full(7, -1.0, np.float32))[0]
        # Semi-implicit Euler: the last substep moved the joints by 0.01 s times their velocities.
        np.testing.assert_allclose(
            observation[14:17], finger(model, data.qpos - 0.01 * data.qvel), atol=1e-9
        )
    assert np.linalg.norm(observation[14:17] - finger(model, data.qpos)) > 1e-3


def test_every_episode_starts_one_step_after_the_stretched_arm(environment: gymnasium.Env) -> None:
    for seed in (9, 10):
        observation = environment.reset(seed=seed)[0]
        # Without gravity and torque, what is at rest stays at rest.
        np.testing.assert_allclose(
            observation, [*np.zeros(14), 0.821, -0.6, 0.0, *TARGET], atol=1e-12
        )
        assert environment.unwrapped.data.time == pytest.approx(0.02)
        environment.step(np.full(7, -1.0, np.float32))


def test_a_random_policy_gets_the_known_return(environment: gymnasium.Env) -> None:
    mean, deviation, episodes = -1816.7, 389.0, 40  # measured on a separate build
    environment.action_space.seed(0)
    returns = []
    for seed in range(20):
        environment.reset(seed=seed)
        steps = [environment.step(environment.action_space.sample()) for _ in range(200)]
        returns.append(sum(step[1] for step in steps))
    error = deviation * np.sqrt(1 / len(returns) + 1 / episodes)
    assert abs(np.mean(returns) - mean) < 3 * error


def test_the_picture_shows_the_hand_where_it_moves_and_the_target() -> None:
    environment = gymnasium.make("envs:reacher-cs285-v0", render_mode="rgb_array")
    environment.reset(seed=0)

    def row_of(channel: int) -> float:
        picture = environment.render().astype(float)
        others = np.delete(picture, channel, axis=-1).max(axis=-1)
        rows, _ = np.nonzero(picture[..., channel] > 1.5 * others)
        assert len(rows) > 200
        return rows.mean()

    hand, target = row_of(0), row_of(1)
    for _ in range(40):
        environment.step(np.array([0.5, -0.1, 0.0, -0.5, 0.0, -0.3, 0.0], np.float32))
    assert row_of(0) < hand - 50  # a bent arm that points upwards
    assert row_of(1) == pytest.approx(target, abs=1.0)
    environment.close()
