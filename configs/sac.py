"""Soft actor-critic (Haarnoja et al. 2018), the model-free baseline: one gradient update per step.

Usage:
    python train.py --config=configs/sac.py               InvertedPendulum-v5, two seeds together
    python train.py --config=configs/sac.py:Hopper-v5     any other environment, one seed

Environment steps are those of the model-based runs, so that curves can be laid over each other; SAC
alone needs about ten times as many to converge, for example `--config.total_steps=1_000_000`.
"""

import ml_collections

from configs import default

DEMO_ENV = "InvertedPendulum-v5"


def get_config(env: str = DEMO_ENV) -> ml_collections.ConfigDict:
    """Returns the SAC configuration for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "sac"
    if env == DEMO_ENV:
        config.num_seeds = 2  # minutes on a laptop
    return config
