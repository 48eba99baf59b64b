"""What can be wrong with the model objective, its value function and its refits."""

from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from experiment.fields import ALIASES, OBJECTIVE_ALIASES, flag, get, uses

VALIDATIONS = ("mse", "objective")


def allowed_names() -> dict[str, Collection[str]]:
    """Returns the values that each field with a fixed list of names may have."""
    from models.objectives.vagram import FORMS  # these import JAX, reading a configuration does not
    from models.objectives.value_aware import REDUCTIONS
    from models.objectives.values import ACTIONS, CRITICS
    from models.objectives.vep import FORMS as VEP_FORMS
    from models.objectives.vep import SETS

    return {
        "model.validation": VALIDATIONS,
        "objective.critic": CRITICS,
        "objective.action": ACTIONS,
        "objective.reduction": REDUCTIONS,
        "objective.vagram_form": FORMS,
        "objective.vep_form": VEP_FORMS,
        "objective.vep_functions": SETS,
    }


def check_objective(config: ConfigDict) -> Iterator[str]:
    """Yields what the value-aware losses cannot work with."""
    quantile = "objective.gradient_quantile"
    if uses(config, quantile) and not 0 < config.objective.gradient_quantile <= 1:
        yield f"{flag(config, quantile)} is not in (0, 1]: use for example 0.95, or 1 for no limit."
    if not uses(config, "objective.critic"):
        return
    if config.objective.include_entropy and config.objective.action == "mean":
        yield (
            f"{flag(config, 'objective.include_entropy')} needs a sampled action: add "
            "--config.objective.action=sample."
        )


def check_refit(config: ConfigDict) -> Iterator[str]:
    """Yields refits whose rollouts the elites cannot share or the replay cannot hold."""
    refit, elites = config.refit, config.model.num_elites or 0
    if not uses(config, "refit.interval") or not refit.interval or refit.starts < 1 or elites < 1:
        return
    if refit.starts % elites:
        yield (
            f"{flag(config, 'refit.starts')} cannot be shared equally by model.num_elites="
            f"{elites}: use {refit.starts + elites - refit.starts % elites}."
        )
    if refit.starts > (config.rollout.starts or refit.starts):
        yield (
            f"{flag(config, 'refit.starts')} is more than the replay of model transitions is made "
            f"for: use rollout.starts={config.rollout.starts} or fewer."
        )


def check_aliases(config: ConfigDict) -> Iterator[str]:
    """Yields names of Modhe et al. that contradict the field they stand for, or say nothing."""
    for alias, name in ALIASES.items():
        if get(config, alias) is not None:
            yield f"{flag(config, alias)} contradicts {flag(config, name)}: leave one of them out."
    given = (config.model_loss_type, config.va_norm)
    if given == (None, None):
        return
    if given in OBJECTIVE_ALIASES:
        yield (
            f"{flag(config, 'model_loss_type')} contradicts {flag(config, 'model.objective')} of "
            f"{flag(config, 'algo')}: leave one of them out, or use --config.algo=mbpo."
        )
    else:
        yield (
            f"{flag(config, 'model_loss_type')} with {flag(config, 'va_norm')} names no objective: "
            "use model_loss_type=mle, or model_loss_type=va with va_norm=l1 or l2."
        )
