"""CFG-MBPO: MBPO guided by coupled flows (docs/cf_mbpo.md).

Usage:
    python train.py --config=configs/cf_mbpo.py              InvertedPendulum-v5, two seeds together
    python train.py --config=configs/cf_mbpo.py:Hopper-v5    any other environment, one seed
    python train.py --config=configs/cf_mbpo.py --config.use_algo=discriminator   or reward, mbpo

The first command reaches the maximal return, 1000, with both seeds at 2,500 environment steps and
keeps it to the end at 6,000, in 12 min on two cores of an AMD EPYC (213 GFLOP/s in a matrix
product), jax 0.10.2. Curve and diagnostics: results/README.md.
"""

import ml_collections

from configs import default

DEMO_ENV = "InvertedPendulum-v5"


def get_config(env: str = DEMO_ENV) -> ml_collections.ConfigDict:
    """Returns the CFG-MBPO configuration for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "cf_mbpo"
    if env == DEMO_ENV:
        config.num_seeds = 2  # these three: minutes on a laptop
        config.total_steps = 6_000
        config.flow.refine_steps = 50
    return config
