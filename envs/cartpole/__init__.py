"""The two cart-poles that PETS is tried on: one to keep upright, one to swing up.

Importing this package registers them with Gymnasium and with `envs.registry`.

Sources: `mbrl/env/cartpole_continuous.py` of github.com/facebookresearch/mbrl-lib (Pineda et al.
2021, arXiv:2104.10159); `dmbrl/env/cartpole.py` and its asset of github.com/kchua/handful-of-trials
(Chua et al. 2018, arXiv:1805.12114).
"""

import gymnasium

from envs import terminations
from envs.cartpole import continuous, rewards
from envs.registry import register

EPISODE_STEPS = 200

gymnasium.register(
    "cartpole-continuous-v0",
    "envs.cartpole.continuous:ContinuousCartPoleEnv",
    max_episode_steps=EPISODE_STEPS,
)
gymnasium.register(
    "cartpole-pets-v0", "envs.cartpole.pets:PetsCartPoleEnv", max_episode_steps=EPISODE_STEPS
)
register("cartpole-continuous-v0", termination=continuous.terminated, reward=continuous.reward)
register("cartpole-pets-v0", termination=terminations.never, reward=rewards.pets)
