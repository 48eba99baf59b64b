"""Obstacles: the arithmetic of moves, by hand, and the same in JAX."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import make
from envs.cs285 import obstacles

# Left x, top y, width, height: as the homework lists them.
LISTED = [
    (-0.4, 0.8, 0.4, 0.3),
    (-0.9, 0.3, 0.2, 0.6),
    (0.6, -0.1, 0.12, 0.4),
    (-0.1, 0.2, 0.15, 0.4),
    (0.1, -0.7, 0.3, 0.15),
]


@pytest.fixture
def environment() -> gymnasium.Env:
    environment = gymnasium.make("obstacles-cs285-v0")
    environment.reset(seed=0)
    return environment


def place(environment: gymnasium.Env, x: float, y: float) -> None:
    environment.unwrapped.position = np.array([x, y])


@pytest.mark.parametrize(("left", "top", "width", "height"), LISTED)
def test_rectangles_are_closed_and_their_borders_are_free(
    left: float, top: float, width: float, height: float
) -> None:
    right, bottom = left + width, top - height
    x, y = left + width / 2, top - height / 2
    assert not obstacles.is_free(np.array([x, y]))
    inside = 1e-9
    corners = [(left, bottom), (left, top), (right, bottom), (right, top)]
    for corner_x, corner_y in corners:
        into_x, into_y = np.sign(x - corner_x) * inside, np.sign(y - corner_y) * inside
        assert not obstacles.is_free(np.array([corner_x + into_x, corner_y + into_y]))
        assert obstacles.is_free(np.array([corner_x - into_x, corner_y]))
        assert obstacles.is_free(np.array([corner_x, corner_y - into_y]))


def test_the_borders_themselves_are_free() -> None:
    for rectangle in obstacles.RECTANGLES:
        x, y = (rectangle.left + rectangle.right) / 2, (rectangle.bottom + rectangle.top) / 2
        border = [(rectangle.left, y), (rectangle.right, y), (x, rectangle.bottom)]
        assert obstacles.is_free(np.array([*border, (x, rectangle.top)])).all()


@pytest.mark.parametrize("bound", [-0.99, 0.99])
def test_the_edge_of_the_arena_is_closed(bound: float) -> None:
    nearly = bound * (1.0 - 1e-9)
    for axis in (0, 1):
        edge = np.where(np.arange(2) == axis, bound, 0.45)
        assert not obstacles.is_free(edge)
        assert obstacles.is_free(np.where(np.arange(2) == axis, nearly, 0.45))


def test_the_share_of_free_area() -> None:
    positions = np.random.default_rng(0).uniform(-0.99, 0.99, (200_000, 2))
    closed = sum(width * height for *_, width, height in LISTED)
    assert obstacles.is_free(positions).mean() == pytest.approx(1 - closed / 1.98**2, abs=0.002)


def test_an_action_moves_by_a_tenth_and_is_clipped(environment: gymnasium.Env) -> None:
    place(environment, -0.5, 0.0)
    observation, reward, _, _, info = environment.step(np.array([0.5, -0.25], np.float32))
    np.testing.assert_allclose(observation, [-0.45, -0.025, 0.7, -0.8])
    assert reward == pytest.approx(-np.hypot(1.15, 0.775))
    assert info["distance"] == -reward
    position = obstacles.step_position(np.array([0.0, 0.0]), np.array([0.0, 5.0]))
    np.testing.assert_array_equal(position, [0.0, 0.0])  # into rectangle D
    position = obstacles.step_position(np.array([0.5, 0.0]), np.array([-9.0, 5.0]))
    np.testing.assert_allclose(position, [0.4, 0.1])


@pytest.mark.parametrize(
    ("start", "action"),
    [((-0.41, 0.6), (0.99, 0.0)), ((0.95, 0.5), (0.5, 0.3)), ((-0.45, 0.45), (0.9, 0.9))],
)
def test_a_blocked_move_keeps_the_position(
    environment: gymnasium.Env, start: tuple[float, float], action: tuple[float, float]
) -> None:
    place(environment, *start)
    observation, _, terminated, _, _ = environment.step(np.array(action, np.float32))
    np.testing.assert_array_equal(observation[:2], start)
    assert not terminated


def test_only_the_end_of_a_move_counts() -> None:
    # Rectangle C is 0.12 wide: straight through it needs two moves, its corner one.
    corner = obstacles.step_position(np.array([0.59, -0.47]), np.array([0.5, -0.9]))
    np.testing.assert_allclose(corner, [0.64, -0.56])


def test_agents_actions_are_scaled_to_the_box() -> None:
    environment = make("obstacles-cs285-v0")
    environment.reset(seed=0)
    place(environment, 0.3, 0.5)
    observation = environment.step(np.array([1.0, -1.0], np.float32))[0]
    np.testing.assert_allclose(observation[:2], [0.399, 0.401], atol=1e-6)


def test_episodes_start_free_and_in_the_box(environment: gymnasium.Env) -> None:
    starts = np.stack([environment.reset(seed=seed)[0] for seed in range(500)])
    assert obstacles.is_free(starts[:, :2]).all()
    low, high = starts[:, :2].min(axis=0), starts[:, :2].max(axis=0)
    np.testing.assert_array_less([-0.99, 0.26], low)
    np.testing.assert_array_less(high, [0.59, 0.99])
    np.testing.assert_allclose(low, [-0.99, 0.26], atol=0.02)
    np.testing.assert_allclose(high, [0.59, 0.99], atol=0.02)
    np.testing.assert_array_equal(starts[:, 2:], np.tile([0.7, -0.8], (500, 1)))


def test_an_episode_is_over_near_the_goal() -> None:
    def over(x: float, y: float) -> bool:
        state = jnp.array([x, y, 0.7, -0.8])
        return bool(obstacles.terminated(state, jnp.zeros(2), state))

    assert over(0.7, -0.701)
    assert not over(0.7, -0.699)
    assert over(0.64, -0.73)
    # Only a model predicts what is outside.
    assert over(0.991, 0.0)
    assert over(0.0, -0.991)
    assert not over(0.99, -0.99)
    assert over(jnp.nan, 0.0)


def test_the_environment_ends_at_the_goal(environment: gymnasium.Env) -> None:
    place(environment, 0.55, -0.8)
    assert not environment.step(np.array([0.4, 0.0], np.float32))[2]
    assert environment.step(np.array([0.4, 0.0], np.float32))[2]


@pytest.mark.parametrize("leading", [(), (6,), (3, 4)])
def test_jax_moves_like_the_environment(leading: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    positions = generator.uniform(-1.0, 1.0, (*leading, 2)).astype(np.float32)
    actions = generator.uniform(-1.2, 1.2, (*leading, 2)).astype(np.float32)
    moved = jax.jit(obstacles.step_position)(positions, actions)
    assert moved.shape == (*leading, 2)
    assert moved.dtype == jnp.float32
    expected = obstacles.step_position(np.float64(positions), np.float64(actions))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_jax_predicts_episodes(environment: gymnasium.Env) -> None:
    environment.action_space.seed(0)
    step = jax.jit(obstacles.step_position)
    blocked = 0
    for seed in range(5):
        observation = environment.reset(seed=seed)[0]
        position = jnp.asarray(observation[:2], jnp.float32)
        for _ in range(100):
            action = environment.action_space.sample()
            before, observation = observation, environment.step(action)[0]
            position = step(position, action)
            np.testing.assert_allclose(position, observation[:2], atol=1e-5)
            blocked += np.array_equal(before, observation)
    assert blocked > 10


def test_a_random_policy_gets_the_known_return(environment: gymnasium.Env) -> None:
    mean, deviation, episodes = -163.1, 34.0, 400  # measured on a separate build
    environment.action_space.seed(0)
    returns = np.zeros(40)
    for seed in range(len(returns)):
        environment.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = environment.step(
                environment.action_space.sample()
            )
            returns[seed] += reward
            over = terminated or truncated
    error = deviation * np.sqrt(1 / len(returns) + 1 / episodes)
    assert abs(returns.mean() - mean) < 3 * error


def test_the_picture_shows_everything() -> None:
    environment = gymnasium.make("obstacles-cs285-v0", render_mode="rgb_array")
    environment.reset(seed=0)
    place(environment, -0.5, -0.5)
    picture = environment.render()

    def at(x: float, y: float) -> np.ndarray:
        return picture[round((1.1 - y) * 200), round((x + 1.1) * 200)].astype(int)

    assert at(-0.5, -0.5).max() < 50
    for left, top, width, height in LISTED:
        red, green, blue = at(left + width / 2, top - height / 2)
        assert red > 150
        assert max(green, blue) < 80
        assert at(left - 0.03, top - height / 2).min() == 255
    red, green, blue = at(0.7, -0.8)
    assert green > 2 * max(red, blue)
    assert at(0.995, 0.0).max() < 50  # the edge of the arena
