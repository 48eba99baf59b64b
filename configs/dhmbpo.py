"""Double-horizon MBPO: value gradients through short model rollouts (docs/dhmbpo.md).

python train.py --config=configs/dhmbpo.py:Hopper-v4 --config.num_seeds=2
python train.py --config=configs/dhmbpo.py:Walker2d-v4 --config.preset=dhmbpo_plus
python train.py --config=configs/dhmbpo.py:HalfCheetah-v4 --config.model.objective=vaml
"""

import ml_collections

from configs import default


def get_config(env: str = "Hopper-v4") -> ml_collections.ConfigDict:
    """Returns the configuration of double-horizon MBPO for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "dhmbpo"
    return config
