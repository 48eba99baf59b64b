"""The swing-up cart-pole: golden numbers and its model."""

import gymnasium
import numpy as np
import pytest

# Of the published asset on MuJoCo 4.0.0: from rest, forces of +1.5 and -1.5 for 10 steps each.
AFTER = {
    1: (0.00996383, 0.02290204, 0.49596818, 1.12460045),
    10: (0.85368224, 1.10052998, 3.91127901, 2.1062409),
    50: (2.03052279, 0.08086579, 2.21496843, 8.57462179),
}
RETURN = -1.9245430143036943


@pytest.fixture
def environment() -> gymnasium.Env:
    environment = gymnasium.make("envs:cartpole-pets-v0", render_mode="rgb_array")
    environment.reset(seed=0)
    return environment


def test_golden_rollout(environment: gymnasium.Env) -> None:
    environment.unwrapped.set_state(np.zeros(2), np.zeros(2))
    total = 0.0
    for t in range(200):
        action = np.float32([1.5 if t // 10 % 2 == 0 else -1.5])
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += reward
        assert not terminated
        if t + 1 in AFTER:
            np.testing.assert_allclose(observation, AFTER[t + 1], atol=1e-7)
    assert total == pytest.approx(RETURN, abs=1e-6)
    assert truncated


def test_masses_are_those_of_the_shapes(environment: gymnasium.Env) -> None:
    def capsule(radius: float, length: float) -> float:
        return 1000.0 * np.pi * (radius**2 * length + 4 / 3 * radius**3)

    expected = [0.0, capsule(0.1, 0.2), capsule(0.049, np.hypot(0.6, 0.001))]
    np.testing.assert_allclose(environment.unwrapped.model.body_mass, expected)
    assert environment.unwrapped.dt == 0.04


def test_episodes_start_near_hanging_with_a_tenth_of_noise(environment: gymnasium.Env) -> None:
    starts = np.stack([environment.reset(seed=seed)[0] for seed in range(300)])
    np.testing.assert_allclose(starts.mean(axis=0), 0.0, atol=0.025)
    np.testing.assert_allclose(starts.std(axis=0), 0.1, rtol=0.15)


def test_the_cart_stops_at_the_end_of_its_rail(environment: gymnasium.Env) -> None:
    for _ in range(100):
        observation = environment.step(np.float32([3.0]))[0]
    assert observation[0] == pytest.approx(2.5, abs=0.2)


def test_the_picture_follows_the_cart(environment: gymnasium.Env) -> None:
    def middle(position: float) -> float:
        environment.unwrapped.set_state(np.array([position, 0.0]), np.zeros(2))
        picture = environment.render().astype(float)
        assert picture.shape == (240, 720, 3)
        blue = picture[..., 2] > 1.3 * picture[..., 0]
        assert blue.sum() > 300
        return np.nonzero(blue)[1].mean()

    left, center, right = middle(-2.4), middle(0.0), middle(2.4)
    assert 0 < left < center < right < 720
    assert center == pytest.approx(360, abs=3)
    environment.close()
