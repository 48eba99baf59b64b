"""PETS (Chua et al. 2018): planning by cross-entropy with a probabilistic ensemble.

Usage:
    python train.py --config=configs/pets.py                       the continuous cart-pole
    python train.py --config=configs/pets.py:cartpole-pets-v0      swing-up

An epoch is an episode's length of steps. PETS is judged by the episodes it is trained in, which are
`train/return`; `eval/return` is that of one more episode with the same planner.

Source: `mbrl/examples/conf/overrides/pets_cartpole.yaml` and `pets_cartpole_paper_version.yaml` of
github.com/facebookresearch/mbrl-lib (Pineda et al. 2021, arXiv:2104.10159).
"""

import ml_collections

from configs import default

CARTPOLE = {
    "total_steps": 5_200,  # the first 200 of them are not counted there
    "model.learning_rate": 7.5e-4,
    "model.weight_decay": (3e-5,),
    "model.train_every": 50,
    "planner.horizon": 15,
    "planner.num_candidates": 350,
    "planner.num_elites": 35,
}
SWING_UP = {
    "total_steps": 10_200,
    "model.learning_rate": 1e-4,
    "model.weight_decay": (3e-5,),
    "model.train_every": 200,
    "planner.horizon": 30,
    "planner.num_candidates": 500,
    "planner.num_elites": 50,
}
CONSTANTS = {"cartpole-continuous-v0": CARTPOLE, "cartpole-pets-v0": SWING_UP}


def get_config(env: str = "cartpole-continuous-v0") -> ml_collections.ConfigDict:
    """Returns the configuration of PETS for the environment id `env`."""
    config = default.get_config(env)
    config.algo = "pets"
    config.initial_steps = config.epoch_length = 200
    config.eval_episodes = 1
    config.eval_untrained = False
    config.model.learn_reward = False
    config.model.batch_size = 32  # the paper's; with 256 the first fits are 25 gradient steps
    config.model.bootstrap = True
    config.model.holdout_ratio = 0.0  # early stopping by the training rows, as there
    config.model.incumbent_competes = True
    config.model.patience = 25
    config.model.max_epochs = 25
    config.model.max_gradient_steps = 0
    config.update_from_flattened_dict(CONSTANTS.get(env, {}))
    return config
