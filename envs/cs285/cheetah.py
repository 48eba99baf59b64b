"""cheetah-cs285-v0: Gymnasium's half-cheetah at 100 Hz, which must not bend its front leg."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from envs.cs285 import rewards

NUM_JOINTS = 9
RESET_NOISE = 0.1  # half width of the uniform positions, standard deviation of the velocities


class CheetahEnv(HalfCheetahEnv):
    """Runs without bending the front leg.

    Observation [21]: positions of the 9 joints (root x, z and pitch; back thigh, shin and foot;
    front thigh, shin and foot; metres and radians), their velocities, and the torso's position.
    The torso's position is one step (0.01 s) old, because the simulator computes it before it
    moves the joints: the homework observes it so, and so do we. Its y is always 0.

    Action [6]: torques of the joints of both legs in [-1, 1]. Never terminates.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            frame_skip=1,
            exclude_current_positions_from_observation=False,
            reset_noise_scale=RESET_NOISE,
            render_mode=render_mode,
        )
        size = 2 * NUM_JOINTS + 3
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies torques [6]; `info` has the terms of the reward and, as `score`, the root's x."""
        self.do_simulation(action, self.frame_skip)
        observation = self._get_obs()
        reward = rewards.cheetah(observation, action, observation)
        terms = rewards.cheetah_terms(observation)
        info = {"score": observation[0], **{name: float(term) for name, term in terms.items()}}
        if self.render_mode == "human":
            self.render()
        return observation, float(reward), False, False, info

    def _get_obs(self) -> np.ndarray:
        return np.concatenate([super()._get_obs(), self.data.body("torso").xpos])
