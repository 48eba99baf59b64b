"""obstacles-cs285-v0: a point finds its way past five rectangles. No simulator, only arithmetic.

`step_position` is the whole dynamics, for NumPy and JAX arrays alike: the environment steps with
it, and a planner may use it as a perfect model.
"""

from typing import Any, ClassVar, NamedTuple

import chex
import gymnasium
import numpy as np

from envs.canvas import Canvas
from envs.cs285 import rewards

ARENA = 0.99  # both coordinates stay strictly within plus and minus this
ACTION_LIMIT = 0.99  # of the action space: agents' actions in [-1, 1] are scaled by it
STEPS_PER_UNIT = 10.0  # an action of 1 moves by a tenth
GOAL = (0.7, -0.8)
GOAL_RADIUS = 0.1  # nearer than this, the episode is over
START_LOW, START_HIGH = (-0.99, 0.26), (0.59, 0.99)


class Rectangle(NamedTuple):
    """What a point cannot be strictly inside of."""

    left: float
    bottom: float
    right: float
    top: float


RECTANGLES = (
    Rectangle(-0.4, 0.5, 0.0, 0.8),
    Rectangle(-0.9, -0.3, -0.7, 0.3),
    Rectangle(0.6, -0.5, 0.72, -0.1),
    Rectangle(-0.1, -0.2, 0.05, 0.2),
    Rectangle(0.1, -0.85, 0.4, -0.7),
)


def is_free(position: chex.Array) -> chex.Array:
    """Whether positions [..., 2] are strictly inside the arena and in no rectangle: bool [...].

    The borders of rectangles are free.
    """
    x, y = position[..., 0], position[..., 1]
    free = (abs(x) < ARENA) & (abs(y) < ARENA)
    for left, bottom, right, top in RECTANGLES:
        free = free & ~((left < x) & (x < right) & (bottom < y) & (y < top))
    return free


def step_position(position: chex.Array, action: chex.Array) -> chex.Array:
    """Moves by a tenth of the action if that ends at a free position, else not at all.

    Only the end of the move counts: a long one passes through what is thin.

    Args:
      position: [..., 2].
      action: [..., 2], the environment's own, `ACTION_LIMIT` times an agent's; clipped to [-1, 1].

    Returns:
      The next position [..., 2].
    """
    moved = position + action.clip(-1.0, 1.0) / STEPS_PER_UNIT
    free = is_free(moved)[..., None]
    # This sum is exact, and unlike a `where` the same expression in NumPy and JAX.
    return free * moved + ~free * position


def distance(observation: chex.Array) -> chex.Array:
    """From position to goal: observations [..., 4] -> [...]."""
    return rewards.distance(observation[..., 0:2], observation[..., 2:4])


def reward(observation: chex.Array, action: chex.Array, next_observation: chex.Array) -> chex.Array:
    """Minus the distance to the goal after the step."""
    del observation, action
    return -distance(next_observation)


def terminated(
    observation: chex.Array, action: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """The goal is nearer than 0.1, or the position outside the arena, which a model may predict."""
    del observation, action
    x, y = next_observation[..., 0], next_observation[..., 1]
    inside = (abs(x) <= ARENA) & (abs(y) <= ARENA)
    return ~(inside & (distance(next_observation) >= GOAL_RADIUS))


class ObstaclesEnv(gymnasium.Env):
    """Reaches the goal at (0.7, -0.8) from a random start in the upper left.

    Observation [4]: position and goal. Action [2]: ten times the move, in [-0.99, 0.99].
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-ARENA, ARENA, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, (2,), np.float32)
        self.render_mode = render_mode
        self.position = np.zeros(2)  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts at a random free position; returns the observation [4]."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform(START_LOW, START_HIGH)
        while not is_free(self.position):
            self.position = self.np_random.uniform(START_LOW, START_HIGH)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves by `action / 10` [2] if nothing is there; `info` has the `distance` to the goal."""
        self.position = step_position(self.position, np.asarray(action, np.float64))
        observation = self._observe()
        transition = (observation, action, observation)
        info = {"distance": distance(observation)}
        return observation, float(reward(*transition)), bool(terminated(*transition)), False, info

    def render(self) -> np.ndarray:
        """Draws rectangles red, the goal and what counts as it green, the point black."""
        canvas = Canvas((-1.1, -1.1), (1.1, 1.1), pixels_per_unit=200)
        canvas.box((-1.0, -1.0), (1.0, 1.0), "black")
        canvas.box((-ARENA, -ARENA), (ARENA, ARENA), "white")
        canvas.disc(GOAL, GOAL_RADIUS, "#cdeccd")
        for left, bottom, right, top in RECTANGLES:
            canvas.box((left, bottom), (right, top), "#c8322b")
        canvas.disc(GOAL, 0.03, "#1b8a3a")
        canvas.disc(self.position, 0.03, "black")
        return canvas.pixels()

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.position, GOAL])
