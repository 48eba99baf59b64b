"""Optimal model design on CartPole (Nikishin et al. 2022, section 5.1): soft Q-learning in a model.

python train.py --config=configs/omd_cartpole.py                            OMD, ten seeds
python train.py --config=configs/omd_cartpole.py --config.algo=mle          or vep
python train.py --config=configs/omd_cartpole.py --config.model.hidden_width=2
python train.py --config=configs/omd_cartpole.py:CartPole-v1+noise128       distractors

With a model of width 6, 50,000 steps and ten seeds (`--config.total_steps=50000
--config.model.hidden_width=6`) OMD returns 388 +- 90 after 3 min 40 s on two cores of an AMD EPYC,
MLE 301 +- 41 after 1 min 30 s. More in results/omd/cartpole.
"""

import ml_collections

from configs import default


def get_config(env: str = "CartPole-v1") -> ml_collections.ConfigDict:
    """Returns the configuration of a one-step agent for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "omd"
    config.agent = "dyna"
    config.num_seeds = 10
    config.checkpoint.every_epochs = 20  # with ten replays it takes longer than an epoch
    config.logging.tensorboard = False  # ten seeds write it more slowly than they train
    return config
