"""The preset of value-aware MBPO as published, as changes to that of mbrl-lib.

Source: Modhe et al. 2021, "Model-Advantage Optimization for Model-Based RL" (arXiv:2106.14080): the
overrides in `mbrl/examples/conf/overrides/` of github.com/nirbhayjm/va_mbpo (2022), a clone of
mbrl-lib. Units as in `configs/environments.py`; what the preset does not copy is listed in
docs/objectives.md.
"""

from typing import Any

Constants = dict[str, Any]  # dotted config field -> value

COMMON: Constants = {
    "sac.hidden_width": 1024,
    "sac.learning_rate": 3e-4,
    "sac.learn_temperature": True,
    "sac.initial_temperature": 0.1,
    "sac.max_grad_norm": 2.0,
    "model.validation": "mse",
    "model.max_gradient_steps": 0,
    "objective.critic": "first",
    "objective.action": "sample",
    "objective.num_model_samples": 1,
    "objective.mask_terminal": False,
    "objective.include_discount": False,
    "objective.reduction": "sum",
    "objective.value_weight": 0.01,
    "refit.interval": 5,
    "refit.starts": 50_000,
    "refit.updates": 5,
}

# Only with a value-aware loss.
VALUE_AWARE: Constants = {"model.max_grad_norm": 2.0}


def _family(
    *,
    critic: float,
    policy: float,
    temperature: float,
    policy_every: int,
    target_every: int,
    entropy: float,
    **more: Any,
) -> Constants:
    """Returns the constants of one environment; dots of further fields are written `__`."""
    return {
        "sac.critic_learning_rate": critic,
        "sac.policy_learning_rate": policy,
        "sac.temperature_learning_rate": temperature,
        "sac.policy_update_every": policy_every,
        "sac.target_update_every": target_every,
        "sac.target_entropy": entropy,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


FAMILIES: dict[str, Constants] = {
    "InvertedPendulum": _family(
        critic=3e-4,
        policy=3e-4,
        temperature=1e-4,
        policy_every=1,
        target_every=4,
        entropy=-0.05,
        total_steps=20_000,
        epoch_length=250,
        model__weight_decay=(5e-5,),
        rollout__schedule=(0, 3_500, 1, 1),
        rollout__retain_steps=250,
    ),
    "Hopper": _family(
        critic=3e-4,
        policy=3e-5,
        temperature=3e-4,
        policy_every=1,
        target_every=4,
        entropy=-1.0,
        total_steps=125_000,
        model__patience=10,
        model__weight_decay=(5e-5,),
        rollout__schedule=(19_000, 149_000, 1, 15),
    ),
    "Walker2d": _family(
        critic=3e-4,
        policy=3e-4,
        temperature=3e-3,
        policy_every=4,
        target_every=1,
        entropy=-3.0,
        total_steps=300_000,
        model__patience=10,
        model__learning_rate=3e-4,
        model__weight_decay=(2e-5,),
    ),
    "HalfCheetah": _family(
        critic=3e-5,
        policy=3e-4,
        temperature=3e-4,
        policy_every=4,
        target_every=4,
        entropy=-3.0,
        total_steps=400_000,
        updates_per_step=40,
        model__patience=1,
        model__weight_decay=(2e-5,),
    ),
    "Ant": _family(
        critic=3e-4,
        policy=3e-4,
        temperature=3e-3,
        policy_every=4,
        target_every=1,
        entropy=-3.0,
        total_steps=300_000,
        model__patience=10,
        model__learning_rate=3e-4,
        model__weight_decay=(2e-5,),
        rollout__schedule=(19_000, 99_000, 1, 25),
    ),
    "Humanoid": _family(
        critic=1e-5,
        policy=3e-4,
        temperature=3e-4,
        policy_every=16,
        target_every=8,
        entropy=-2.0,
        total_steps=300_000,
        model__learning_rate=5e-4,
        model__weight_decay=(3e-6,),
        rollout__schedule=(19_000, 299_000, 1, 25),
        rollout__retain_steps=5_000,
    ),
}

# Other environments are not in that code; we chose the smallest locomotion budget.
DEFAULT: Constants = {"total_steps": 125_000, "model.weight_decay": (5e-5,)}
