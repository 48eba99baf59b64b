"""Value-aware MBPO: the model is trained for the values it implies (docs/objectives.md).

    python train.py --config=configs/value_aware.py                           VAML, InvertedPendulum
    python train.py --config=configs/value_aware.py --config.algo=vagram      or ma_l1, vep, mbpo
    python train.py --config=configs/value_aware.py:Hopper-v5 --config.preset=modhe2022

Two seeds, a small ensemble (three networks of 2x32 units) and rollouts of ten steps: the setting in
which `results/objectives` compares the objectives.
"""

import ml_collections

from configs import default

DEMO_ENV = "InvertedPendulum-v5"


def get_config(env: str = DEMO_ENV) -> ml_collections.ConfigDict:
    """Returns the configuration of a value-aware agent for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "vaml"
    if env == DEMO_ENV:
        config.num_seeds = 2
        config.total_steps = 5_000
        config.eval_episodes = 5
        config.updates_per_step = 5
        config.sac.hidden_width = 128
        config.model.num_members = 3
        config.model.num_elites = 2
        config.model.hidden_width = 32
        config.model.hidden_depth = 2
        config.model.weight_decay = (0.0,)
        config.rollout.starts = 5_000
        config.rollout.schedule = (1, 2, 10, 10)
    return config
