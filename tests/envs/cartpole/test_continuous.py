"""The continuous cart-pole against Gymnasium's CartPole."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from envs import make
from envs.cartpole import continuous

STEEP = np.radians(12.0)


@pytest.fixture
def environment() -> gymnasium.Env:
    environment = gymnasium.make("cartpole-continuous-v0", render_mode="rgb_array")
    environment.reset(seed=0)
    return environment


def test_full_forces_move_it_like_cartpole(environment: gymnasium.Env) -> None:
    discrete = gymnasium.make("CartPole-v1")
    ends = 0
    generator = np.random.default_rng(0)
    for seed in range(5):
        discrete.reset(seed=seed)
        environment.reset(seed=seed)
        environment.unwrapped.state = discrete.unwrapped.state.copy()
        over = False
        while not over:
            push = int(generator.integers(2))
            expected, _, fallen, _, _ = discrete.step(push)
            observation, reward, over, _, _ = environment.step(np.float32([2 * push - 1]))
            np.testing.assert_allclose(observation, expected, rtol=1e-6, atol=1e-7)
            assert over == fallen
            assert reward == (0.0 if fallen else 1.0)
        ends += over
    assert ends == 5


def test_half_an_action_is_half_the_force() -> None:
    at_rest = np.zeros(4)
    full, half = (continuous.advance(at_rest, action) for action in (1.0, 0.5))
    # The equations of motion, upright and at rest: both accelerations are linear in the force.
    inertia = 0.5 * (4 / 3 - 0.1 / 1.1)
    spin = -10.0 / 1.1 / inertia
    np.testing.assert_allclose(full, [0, 0.02 * (10.0 - 0.05 * spin) / 1.1, 0, 0.02 * spin])
    np.testing.assert_allclose(half, full / 2)


def test_starts_are_cartpoles(environment: gymnasium.Env) -> None:
    discrete = gymnasium.make("CartPole-v1")
    for seed in range(5):
        expected = discrete.reset(seed=seed)[0]
        np.testing.assert_allclose(environment.reset(seed=seed)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("position", "angle", "over"),
    [
        (2.39, 0.0, False),
        (2.41, 0.0, True),
        (-2.41, 0.0, True),
        (0.0, 0.99 * STEEP, False),
        (0.0, 1.01 * STEEP, True),
        (0.0, -1.01 * STEEP, True),
        (np.nan, 0.0, True),
        (0.0, np.nan, True),
    ],
)
def test_it_falls_at_12_degrees_or_2_4_metres(position: float, angle: float, over: bool) -> None:
    state = jnp.zeros((2, 4)).at[:, 0].set(position).at[:, 2].set(angle)
    action = jnp.zeros((2, 1))
    np.testing.assert_array_equal(continuous.terminated(state, action, state), [over] * 2)
    np.testing.assert_array_equal(continuous.reward(state, action, state), [1.0 - over] * 2)


def test_a_balanced_episode_returns_200() -> None:
    environment = make("cartpole-continuous-v0")
    observation, _ = environment.reset(seed=0)
    total, steps, truncated = 0.0, 0, False
    while not truncated:
        control = np.array([0.1, 0.3, 5.0, 1.0]) @ observation  # a stabilising feedback
        observation, reward, terminated, truncated, _ = environment.step(np.float32([control]))
        assert not terminated
        total, steps = total + reward, steps + 1
    assert (total, steps) == (200.0, 200)


def test_the_picture_follows_the_cart_and_the_pole(environment: gymnasium.Env) -> None:
    def middle(state: list[float], color: tuple[int, int, int]) -> float:
        environment.unwrapped.state = np.array(state)
        near = (abs(environment.render().astype(int) - color) < 30).all(axis=-1)
        assert near.sum() > 300
        return np.nonzero(near)[1].mean() / 120 - 2.7

    cart, pole = (47, 75, 110), (201, 138, 75)
    assert middle([0.0, 0.0, 0.0, 0.0], cart) == pytest.approx(0.0, abs=0.02)
    assert middle([-1.5, 0.0, 0.0, 0.0], cart) == pytest.approx(-1.5, abs=0.02)
    assert middle([0.0, 0.0, 0.2, 0.0], pole) == pytest.approx(0.5 * np.sin(0.2), abs=0.03)
