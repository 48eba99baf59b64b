"""Constants of one-step agents, from the paper on optimal model design.

Source: Nikishin et al. 2022, "Control-Oriented Model-Based Reinforcement Learning with Implicit
Differentiation" (arXiv:2106.03273), and its code, github.com/evgenii-nikishin/omd at 10f5b1e. The
code initialises every layer of every network orthogonally; here only the models and the critics of
soft Q-learning are (docs/omd.md lists what else differs).
"""

import math
from typing import Any

Constants = dict[str, Any]  # dotted config field -> value

_COMMON: Constants = {
    "updates_per_step": 1,
    "discount": 0.99,
    "sac.batch_size": 256,
    "sac.hidden_depth": 2,
    "sac.layer_norm": False,
    "sac.num_critics": 2,
    "sac.learning_rate": 3e-4,
    "sac.target_update_every": 1,
    "sac.learn_temperature": True,
    "sac.initial_temperature": 1.0,
    "sac.explore_greedily": False,
    "model.num_members": 1,
    "model.num_elites": 1,
    "model.hidden_depth": 2,
    "model.layer_norm": False,
    "model.variance": "head",
    "model.activation": "relu",
    "model.initializer": "orthogonal",
    "model.weight_decay": (0.0,),
    "model.learn_variance_bounds": False,
    "model.predict_delta": False,
    "model.normalize_targets": False,
}

CONTINUOUS: Constants = {
    **_COMMON,
    "total_steps": 1_000_000,
    "initial_steps": 10_000,
    "epoch_length": 5_000,
    "sac.hidden_width": 256,
    "sac.target_update_rate": 0.005,
    "model.hidden_width": 64,
    "model.learning_rate": 3e-4,
    "model.head_scale": 1.0,
    "model.separate_reward": False,
    "omd.fresh_optimizer": False,
    "omd.fresh_batch": False,
    "omd.diagnose_every": 5_000,  # ours; conjugate gradients on large critics take seconds
}
"""HalfCheetah, with soft actor-critic."""

DISCRETE: Constants = {
    **_COMMON,
    "total_steps": 200_000,
    "initial_steps": 1_000,
    "epoch_length": 1_000,
    "sac.hidden_width": 32,
    "sac.target_update_rate": 0.01,
    "model.hidden_width": 32,
    "model.learning_rate": 1e-3,
    "model.head_scale": 0.01 / math.sqrt(2.0),  # the gain of the last layer is 0.01
    "model.separate_reward": True,
    "omd.fresh_optimizer": True,  # of the hypergradient only; with one inner step it descends signs
    "omd.fresh_batch": True,
    "omd.diagnose_every": 5_000,  # ours
    "objective.vep_form": "separate",
    "objective.vep_functions": "networks",
    "objective.mask_terminal": False,
}
"""CartPole, with soft Q-learning."""

TARGET_ENTROPY = -0.5  # nats per dimension of the action
