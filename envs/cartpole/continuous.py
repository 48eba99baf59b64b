"""cartpole-continuous-v0: Gymnasium's CartPole pushed by any force between its two."""

from typing import Any, ClassVar

import chex
import gymnasium
import numpy as np

from envs.canvas import Canvas

GRAVITY = 9.8
CART_MASS, POLE_MASS = 1.0, 0.1
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_POLE = 0.5  # metres, half the pole's length
MAX_FORCE = 10.0  # newtons, at an action of 1
STEP_TIME = 0.02  # seconds
MAX_POSITION = 2.4  # metres
MAX_ANGLE = float(np.radians(12.0))
START = 0.05  # all four numbers start within plus and minus this


def advance(state: np.ndarray, action: float) -> np.ndarray:
    """One Euler step of cart and pole without friction.

    Args:
      state: [4], position, velocity, angle from upright, angular velocity; metres and radians.
      action: force as a fraction of `MAX_FORCE`.

    Returns:
      The next state [4].
    """
    _, velocity, angle, spin = state
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (MAX_FORCE * action + POLE_MASS * HALF_POLE * spin**2 * sine) / TOTAL_MASS
    inertia = HALF_POLE * (4.0 / 3.0 - POLE_MASS * cosine**2 / TOTAL_MASS)
    spin_change = (GRAVITY * sine - cosine * push) / inertia
    velocity_change = push - POLE_MASS * HALF_POLE * spin_change * cosine / TOTAL_MASS
    return state + STEP_TIME * np.array([velocity, velocity_change, spin, spin_change])


def terminated(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The cart is further than 2.4 m from the middle, or the pole leans more than 12 degrees."""
    del observation, action
    position, angle = next_observation[..., 0], next_observation[..., 2]
    return ~((abs(position) <= MAX_POSITION) & (abs(angle) <= MAX_ANGLE))


def reward(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """1 for every step that does not terminate, else 0."""
    return (~terminated(observation, action, next_observation)).astype(np.float32)


class ContinuousCartPoleEnv(gymnasium.Env):
    """Keeps a pole upright on a cart.

    Observation [4]: position, velocity, angle from upright, angular velocity; metres and radians.
    Action [1]: force on the cart in [-1, 1], of 10 newtons.

    The step that terminates pays 0, as in the reward function that mbrl-lib gives its planner and
    in InvertedPendulum-v5. The simulators of mbrl-lib and Gymnasium pay 1 for it: a failed
    episode's return is lower by 1 here, a full one's is the same.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.render_mode = render_mode
        self.state = np.zeros(4)  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts nearly upright at rest in the middle; returns the observation [4]."""
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-START, START, 4)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pushes the cart with a force [1] for 0.02 s."""
        before, self.state = self.state, advance(self.state, float(action[0]))
        transition = (before, action, self.state)
        over = bool(terminated(*transition))
        return self.state.copy(), float(reward(*transition)), over, False, {}

    def render(self) -> np.ndarray:
        """Draws the cart on its track, whose ends are where an episode ends."""
        canvas = Canvas((-2.7, -0.6), (2.7, 1.4), pixels_per_unit=120)
        x, angle = self.state[0], self.state[2]
        canvas.box((-MAX_POSITION, -0.02), (MAX_POSITION, 0.02), "#8a8a8a")
        for end in (-MAX_POSITION, MAX_POSITION):
            canvas.box((end - 0.02, -0.15), (end + 0.02, 0.15), "#8a8a8a")
        canvas.box((x - 0.25, -0.12), (x + 0.25, 0.12), "#2f4b6e")
        along = np.array([np.sin(angle), np.cos(angle)])
        across = 0.04 * np.array([along[1], -along[0]])
        pivot = np.array([x, 0.0])
        tip = pivot + 2.0 * HALF_POLE * along
        canvas.polygon([pivot - across, pivot + across, tip + across, tip - across], "#c98a4b")
        canvas.disc(pivot, 0.05, "black")
        return canvas.pixels()
