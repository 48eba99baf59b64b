"""From the configuration a user gave to the one that runs: blanks filled, values checked."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from agents.recipes import RECIPES, USE_ALGO
from configs import default, environments, modhe2022, nikishin2022, planning
from errors import UserError
from experiment import checks, fields

# Defaults that belong to an algorithm rather than to an environment. One update per environment
# step is what model-free SAC is published with (Haarnoja et al. 2018, Table 1). The flows compare
# distributions: without z-scored targets, the lower bound of the predicted variance makes the model
# noisier than the data are in dimensions that change little (docs/cf_mbpo.md).
_RECIPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "sac": {"updates_per_step": 1},
    "cf_mbpo": {"use_algo": "both", "model.normalize_targets": True},
}

# What other configurations than those of a preset leave blank: a value-aware loss that is the error
# of one Bellman backup, of a model whose mean alone is used (docs/objectives.md).
_DEFAULTS: dict[str, Any] = {
    "discount": 0.99,
    "sac.batch_size": 256,
    "sac.hidden_depth": 2,
    "sac.layer_norm": False,
    "sac.num_critics": 2,
    "sac.max_grad_norm": 0.0,
    "sac.policy_update_every": 1,
    "sac.target_update_rate": 0.005,
    "model.num_members": 7,
    "model.num_elites": 5,
    "model.hidden_depth": 4,
    "model.layer_norm": False,
    "model.dropout": 0.0,
    "model.variance": "head",
    "model.activation": "silu",
    "model.initializer": "truncated_normal",
    "model.head_scale": 1.0,
    "model.separate_reward": False,
    "model.predict_delta": True,
    "model.max_grad_norm": 0.0,
    "model.averaging": 0.0,
    "model.decoupled_decay": False,
    "model.permanent_holdout": False,
    "model.first_gradient_steps": 0,
    "model.normalize_targets": False,
    "model.freeze_constant": False,
    "model.validation": "mse",
    "objective.critic": "min",  # what SAC backs up; a model fitted to one critic misleads the other
    "objective.action": "mean",
    "objective.num_model_samples": 0,
    "objective.mask_terminal": True,
    "objective.include_discount": True,
    "objective.reduction": "mean",
    "objective.value_weight": 1.0,
    "objective.vep_form": "backup",
    "objective.vep_functions": "random",
    "omd.fresh_optimizer": False,
    "omd.fresh_batch": False,
    "omd.diagnose_every": 0,
    "dhmbpo.updates_per_rollout": 25,
    "refit.interval": 0,
    "refit.starts": 1000,
    "refit.updates": 5,
}

# Weight of the flow reward beside the likelihood, by estimator. The first two were chosen by us
# (docs/cf_mbpo.md); the loss of the last is divided by mean |Q|, as in TD3+BC and Plan to Predict.
_RL_WEIGHTS: dict[str, float] = {"path": 30.0, "score": 30.0, "ac": 2.5}


def resolve(config: ConfigDict) -> ConfigDict:
    """Fills every field that is `None` from the recipe, then the preset and environment.

    A value that the user gave always wins. An unknown recipe, preset or environment fills nothing;
    `validate` reports it together with every other problem.

    Args:
      config: a configuration with the fields of `configs/default.py`; it is left as it is.

    Returns:
      A new, frozen configuration. Fields that mean nothing to the algorithm (the model objective of
      SAC) stay `None`.
    """
    resolved = ConfigDict(config.to_dict(), convert_dict=True).copy_and_resolve_references()
    _apply_aliases(resolved)
    _fill(resolved, _RECIPE_DEFAULTS.get(resolved.algo, {}))
    if resolved.algo == "cf_mbpo":
        _fill(resolved, {"rollout.filter": USE_ALGO.get(resolved.use_algo)})
    if recipe := RECIPES.get(resolved.algo):
        _fill(resolved, {"agent": recipe.agent, "model.objective": recipe.objective})
        if resolved.agent in fields.ROLLOUTS:
            _fill(resolved, {"rollout.filter": recipe.filter or "none"})
    _fill(resolved, {"preset": "dhmbpo_lite" if resolved.agent == "dhmbpo" else "original"})
    if resolved.agent == "mpc":
        _fill(resolved, planning.RECIPES.get(resolved.algo, {}))
        _fill(resolved, planning.defaults(resolved.planner.name))
    spec = checks.find_spec(resolved.env)
    if resolved.agent == "dyna" and spec:
        _fill(resolved, nikishin2022.DISCRETE if spec.discrete else nikishin2022.CONTINUOUS)
        entropy = nikishin2022.TARGET_ENTROPY * spec.action_size
        _fill(resolved, {"sac.target_entropy": entropy})
    _fill(resolved, {"flow.rl_weight": _RL_WEIGHTS.get(resolved.flow.estimator)})
    if resolved.preset in environments.PRESETS:
        _fill(resolved, environments.constants(resolved.env, resolved.preset))
    value_aware = resolved.model.objective in fields.VALUE_AWARE
    decision_aware = resolved.model.objective in fields.DECISION_AWARE
    if value_aware and resolved.preset == "modhe2022":
        _fill(resolved, modhe2022.VALUE_AWARE)
    if decision_aware:
        _fill(resolved, {"model.validation": "objective"})
    _fill(resolved, _DEFAULTS)
    hyper = resolved.objective
    # Products of two samples are unbiased, so they say nothing about the variance.
    by_sample = value_aware and hyper.num_model_samples == 1
    trains_variance = by_sample or (decision_aware and hyper.mle_weight > 0)
    sampled = resolved.model.objective == "mle" or trains_variance
    _fill(resolved, {"rollout.deterministic": not sampled})
    if (resolved.sac.learning_rate or 0) > 0:  # a mistake is not copied, it would be reported twice
        for part in ("critic", "policy", "temperature"):
            _fill(resolved, {f"sac.{part}_learning_rate": resolved.sac.learning_rate})
    if (resolved.total_steps or 0) > 0:
        _fill(resolved, {"replay_capacity": resolved.total_steps})
    if spec:
        _fill(resolved, {"sac.target_entropy": -float(spec.action_size)})
        _fill(resolved, {"env_on_device": checks.is_functional(resolved.env)})
    return FrozenConfigDict(resolved)


def complete(stored: Mapping[str, Any]) -> ConfigDict:
    """Returns the resolved configuration of a run that may be older than some fields.

    Those have the defaults that a run with the other values gets now.

    Args:
      stored: what the run has in its `config.json`, by dotted name; present names only.
    """
    config = default.get_config()
    config.update_from_flattened_dict(
        {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    )
    return resolve(config)


def validate(config: ConfigDict) -> None:
    """Checks a resolved configuration.

    Args:
      config: what `resolve` returned.

    Raises:
      UserError: something is wrong; the message lists all problems, each with its fix.
    """
    problems = [problem for check in checks.CHECKS for problem in check(config)]
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"{len(problems)} problems in the configuration:{lines}")


def _apply_aliases(config: ConfigDict) -> None:
    """Copies what was given under the names of Modhe et al. to the fields they stand for.

    An alias that cannot be applied stays, and `validate` reports it.
    """
    for alias, name in fields.ALIASES.items():
        value = fields.get(config, alias)
        if value is not None and fields.get(config, name) in (None, value):
            config.update_from_flattened_dict({name: value, alias: None})
    loss = fields.OBJECTIVE_ALIASES.get((config.model_loss_type, config.va_norm))
    recipe = RECIPES.get(config.algo)
    # The recipe's own objective gives way only where it is the plain one.
    free = recipe is None or recipe.objective in ("mle", loss)
    if loss is not None and free and config.model.objective in (None, loss):
        config.model.objective = loss
        config.model_loss_type = config.va_norm = None


def _fill(config: ConfigDict, defaults: Mapping[str, Any]) -> None:
    """Sets the dotted fields of `defaults` that are `None` in `config`."""
    missing = {name: value for name, value in defaults.items() if fields.get(config, name) is None}
    config.update_from_flattened_dict(missing)
