"""cartpole-pets-v0: swing a hanging pole up on a cart and balance it in the middle."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from envs.cartpole import rewards

FRAME_SKIP = 2  # of 0.02 s each
RESET_NOISE = 0.1  # standard deviation of all positions and velocities
CAMERA = {"distance": 2.6, "azimuth": 90.0, "elevation": -5.0, "lookat": np.zeros(3)}
PICTURE_SIZE = (720, 240)  # pixels; the rail is wide and the pole short


class PetsCartPoleEnv(MujocoEnv):
    """Swings up and balances.

    Observation [4]: position of the cart, angle of the pole (0 hanging, not wrapped), and their
    velocities; metres and radians. Action [1]: a hundredth of the force on the cart in newtons, in
    [-3, 3]. Never terminates.
    """

    metadata: ClassVar = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            str(Path(__file__).with_suffix(".xml")),
            FRAME_SKIP,
            gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64),
            render_mode,
            *PICTURE_SIZE,
            default_camera_config=CAMERA,
        )

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pushes the cart with a force [1] for 0.04 s."""
        self.do_simulation(action, self.frame_skip)
        observation = self._observe()
        reward = rewards.swing_up(np, np.asarray(action, np.float64), observation)
        if self.render_mode == "human":
            self.render()
        return observation, float(reward), False, False, {}

    def reset_model(self) -> np.ndarray:
        """Starts near hanging at rest in the middle; returns the observation [4]."""
        noise = self.np_random.normal(0.0, RESET_NOISE, (2, 2))
        self.set_state(self.init_qpos + noise[0], self.init_qvel + noise[1])
        return self._observe()

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])
