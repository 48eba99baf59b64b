"""MBPO (Janner et al. 2019): SAC on short rollouts of a learned ensemble from real states.

Usage:
    python train.py --config=configs/mbpo.py              InvertedPendulum-v5, two seeds together
    python train.py --config=configs/mbpo.py:Hopper-v5    any other environment, one seed
"""

import ml_collections

from configs import default

DEMO_ENV = "InvertedPendulum-v5"


def get_config(env: str = DEMO_ENV) -> ml_collections.ConfigDict:
    """Returns the MBPO configuration for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "mbpo"
    if env == DEMO_ENV:
        config.num_seeds = 2  # one learning curve with an interval, in minutes on a laptop
    return config
