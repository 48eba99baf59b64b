"""MBPO (Janner et al. 2019): SAC on short rollouts of a learned ensemble from real states.

Usage:
    python train.py --config=configs/mbpo.py              InvertedPendulum-v5, two seeds together
    python train.py --config=configs/mbpo.py:Hopper-v5    any other environment, one seed

The first command reaches the maximal return, 1000, with both seeds at 2,000 environment steps and
keeps it to the end at 10,000, in 7 min 20 s on two cores of an AMD EPYC, jax 0.10.2. The second,
with `--config.num_seeds=2 --config.total_steps=20000`, takes 31 min. Curves: results/README.md.
"""

import ml_collections

from configs import default

DEMO_ENV = "InvertedPendulum-v5"


def get_config(env: str = DEMO_ENV) -> ml_collections.ConfigDict:
    """Returns the MBPO configuration for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "mbpo"
    if env == DEMO_ENV:
        config.num_seeds = 2  # minutes on a laptop
    return config
