"""Constants of double-horizon MBPO (Kubo et al. 2025, arXiv:2512.15439), by environment family.

`PLUS` has the published sizes, from the released code (github.com/4kubo/erl_lib, commit 024b0b5).
`LITE` is smaller, about a fifth of the arithmetic; it is ours, and no published run tests it.
Budgets are ours as well: the published curves are long past MBPO's there.
"""

from typing import Any

Constants = dict[str, Any]  # dotted config field -> value

_BOTH: Constants = {
    "initial_steps": 5_000,
    "epoch_length": 1_000,
    "updates_per_step": 1,
    "discount": 0.995,
    "sac.hidden_width": 256,
    "sac.layer_norm": True,
    "sac.learning_rate": 3e-4,
    "sac.initial_temperature": 0.1,
    "model.layer_norm": True,
    "model.dropout": 0.005,  # the mean over the layers of the release
    "model.variance": "holdout",
    "model.hidden_depth": 3,
    "model.learning_rate": 1e-3,
    "model.weight_decay": (2.5e-4, 5e-4, 7.5e-4, 1e-3),
    "model.decoupled_decay": True,
    "model.normalize_targets": True,
    "model.train_every": 250,
    "model.permanent_holdout": True,
    "model.incumbent_competes": True,
}

LITE: Constants = {
    **_BOTH,
    "sac.batch_size": 250,  # a multiple of the members
    "sac.hidden_depth": 2,
    "sac.num_critics": 3,
    "model.num_members": 5,
    "model.num_elites": 5,
    "model.hidden_width": 200,
    "model.max_gradient_steps": 125,
    "model.first_gradient_steps": 2_000,
    "rollout.starts": 250,
    "dhmbpo.updates_per_rollout": 25,
}

PLUS: Constants = {
    **_BOTH,
    "sac.batch_size": 256,
    "sac.hidden_depth": 3,
    "sac.num_critics": 5,
    "model.num_members": 8,
    "model.num_elites": 8,
    "model.hidden_width": 256,
    "model.max_gradient_steps": 250,
    "model.first_gradient_steps": 3_000,
    "rollout.starts": 256,
    "dhmbpo.updates_per_rollout": 20,
}

_SMALL: Constants = {"total_steps": 5_000, "initial_steps": 500, "epoch_length": 250}  # ours
_ARM: Constants = {"total_steps": 10_000, "initial_steps": 1_000, "epoch_length": 250}  # ours
_LARGE: Constants = {"total_steps": 100_000}  # ours

FAMILIES: dict[str, Constants] = {
    "Hopper": {"total_steps": 30_000},
    "HalfCheetah": {"total_steps": 30_000},
    "Walker2d": {"total_steps": 50_000},
    "Swimmer": {"total_steps": 30_000},
    "Ant": _LARGE,
    "Humanoid": _LARGE,
    "InvertedPendulum": _SMALL,
    "InvertedDoublePendulum": _SMALL,
    "Pendulum": {**_SMALL, "epoch_length": 200},
    "Reacher": _ARM,
    "Pusher": _ARM,
}

DEFAULT: Constants = {"total_steps": 50_000}
"""Of any other environment."""
