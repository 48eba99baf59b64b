"""Reading single fields of a configuration by their dotted names."""

import functools
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from agents.recipes import PLANNER_FIELDS, RECIPES

ALIASES: dict[str, str] = {
    "va_loss_coeff": "objective.value_weight",
    "value_update_interval": "refit.interval",
    "num_v_updates_in_model": "refit.updates",
    "v_update_batch_size": "refit.starts",
}
"""Names that users of Modhe et al.'s code know, and the fields they stand for."""

OBJECTIVE_ALIASES: dict[tuple[str | None, str | None], str] = {
    ("mle", None): "mle",
    ("mle", "l1"): "mle",
    ("mle", "l2"): "mle",
    ("va", "l1"): "ma_l1",
    ("va", "l2"): "vaml",
}
"""What `model_loss_type` and `va_norm` together say about `model.objective`."""

VALUE_AWARE = ("ma_l1", "vaml", "vep", "vagram")
"""Objectives that the block `objective` is about."""

DECISION_AWARE = (*VALUE_AWARE, "omd")
"""Objectives that know what the model is for; `objective.mle_weight` adds likelihood to them."""

ROLLOUTS = ("mbpo", "dhmbpo")
"""Agents that learn from rollouts of their policy in the model, which a filter may cut."""

VALUE = ("critic", "action", "mask_terminal", "include_entropy")
"""Fields of the block `objective` that say what the value of a state is, for every model."""


FIT = tuple(
    f"model.{name}"
    for name in (
        "num_elites",
        "batch_size",
        "train_every",
        "normalize_targets",
        "bootstrap",
        "holdout_ratio",
        "holdout_max",
        "improvement_threshold",
        "patience",
        "incumbent_competes",
        "validation",
        "max_gradient_steps",
        "first_gradient_steps",
        "averaging",
        "permanent_holdout",
        "max_epochs",
        "keep",
        "sl_noise",
    )
)
"""Fields about fits to a replay, which one-step agents do not make."""

STEPWISE = (
    "update_every",
    "sac.policy_update_every",
    "sac.target_update_every",
    "sac.explore_greedily",
)
"""Fields of agents that update a policy between environment steps, not all at once in a refresh."""

EVERY_PLANNER = (
    "name",
    "horizon",
    "propagation",
    "num_particles",
    "ignore_termination",
)
"""Fields of the block `planner` that matter to all of them."""

HYPERGRADIENT = ("omd.fresh_optimizer", "omd.fresh_critics")
"""Fields of one-step agents that matter to hypergradients alone."""

ONE_STEP = ("omd.fresh_batch", "omd.diagnose_every")
"""Fields of the block `omd` that matter to all one-step agents and to no others."""


def get(config: ConfigDict, name: str) -> Any:
    """Returns the field with the dotted name `name`."""
    return functools.reduce(getattr, name.split("."), config)


def flag(config: ConfigDict, name: str) -> str:
    """Returns the field and its value as one types them."""
    return f"--config.{name}={get(config, name)}"


def uses(config: ConfigDict, name: str) -> bool:
    """Whether the field `name` matters to the algorithm; all do when the algorithm is unknown."""
    if config.algo not in RECIPES:
        return True
    agent, objective = config.agent, config.model.objective
    if name.startswith("flow."):
        return (config.rollout.filter or "").startswith("flow_")
    if name.removeprefix("objective.") in VALUE:
        # diagnostics of every model of MBPO ask that value
        return agent in ROLLOUTS or objective in VALUE_AWARE
    if name == "objective.mle_weight":
        return objective in DECISION_AWARE
    if name.startswith("objective."):
        return objective in VALUE_AWARE
    if name == "model.sl_noise":
        return agent in ("mbpo", "mpc")
    if name.startswith("model."):
        return agent in (*ROLLOUTS, "mpc") or (agent == "dyna" and name not in FIT)
    if name.startswith("planner."):
        own = PLANNER_FIELDS.get(config.planner.name or "", ())
        return agent == "mpc" and name.removeprefix("planner.") in (*EVERY_PLANNER, *own)
    if name == "rollout.deterministic":
        return agent in (*ROLLOUTS, "mpc", "dyna")
    if name in STEPWISE:
        return agent not in ("mpc", "dhmbpo")
    if name in ("updates_per_step", "discount") or name.startswith("sac."):
        return agent != "mpc"
    if name in HYPERGRADIENT:
        return agent == "dyna" and objective == "omd"
    if name in ONE_STEP or name.startswith("soft_q."):
        return agent == "dyna"
    if name.startswith("omd."):
        return agent == "dyna" or objective == "omd"
    if name in ("rollout.filter", "rollout.starts"):
        return agent in ROLLOUTS
    if name.startswith("dhmbpo."):
        return agent == "dhmbpo"
    return agent == "mbpo" if name.startswith(("refit.", "rollout.")) else True


def given(config: ConfigDict, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yields name and value of the fields that are set and matter to the algorithm."""
    for name in names:
        value = get(config, name)
        if value is not None and uses(config, name):
            yield name, value


def is_number(value: Any) -> bool:
    """Whether the value is a real number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
