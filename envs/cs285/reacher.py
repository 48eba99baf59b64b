"""reacher-cs285-v0: an arm of seven joints without gravity, reaching for a fixed target."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from envs.cs285 import rewards

FRAME_SKIP = 2  # of 0.01 s each
VELOCITY_SCALE = 10.0  # velocities are observed divided by it
OBSERVATION_SIZE = 20
CAMERA = {"distance": 2.4, "azimuth": 150.0, "elevation": -35.0, "lookat": np.array([0.2, -0.2, 0])}


class ReacherEnv(MujocoEnv):
    """Brings the finger to the target at (0.1, 0.1, 0.1).

    Observation [20]: angles of the 7 joints in radians, their velocities divided by 10, and the
    positions of finger and target in metres. The finger's position is one substep (0.01 s) old,
    because the simulator computes it before it moves the joints: the homework observes it so.

    Action [7]: torques in [-1, 1]. Every episode starts with the same stretched arm, whatever its
    seed. Never terminates.
    """

    metadata: ClassVar = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 50,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            str(Path(__file__).with_suffix(".xml")),
            FRAME_SKIP,
            gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64),
            render_mode=render_mode,
            default_camera_config=CAMERA,
        )

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies torques [7]; `info` has the `distance` from finger to target in metres."""
        self.do_simulation(action, self.frame_skip)
        observation = self._observe()
        reward = rewards.reacher(observation, action, observation)
        if self.render_mode == "human":
            self.render()
        info = {"distance": rewards.reacher_distance(observation)}
        return observation, float(reward), False, False, info

    def reset_model(self) -> np.ndarray:
        """Stretches the arm; returns the observation [20] after one step without torque."""
        self.set_state(self.init_qpos, self.init_qvel)
        self.do_simulation(np.zeros(self.model.nu), self.frame_skip)
        return self._observe()

    def _observe(self) -> np.ndarray:
        return np.concatenate(
            [
                self.data.qpos,
                self.data.qvel / VELOCITY_SCALE,
                self.data.site("finger").xpos,
                self.data.site("target").xpos,
            ]
        )
