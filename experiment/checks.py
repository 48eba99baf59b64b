"""What can be wrong with a configuration, one function per kind of mistake.

Each check takes a resolved configuration and yields one message per problem: what was given, what
is allowed, what to type. A field that is still `None` is no problem by itself.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from agents.recipes import RECIPES, USE_ALGO
from configs import environments
from errors import UserError
from experiment.agent_checks import (
    check_agent,
    check_exact,
    check_one_step,
    check_precision,
    omd_names,
)
from experiment.dhmbpo_checks import check_dhmbpo
from experiment.fields import flag, given, is_number, uses
from experiment.flow_checks import check_flow
from experiment.objective_checks import (
    allowed_names,
    check_aliases,
    check_objective,
    check_refit,
)
from experiment.planner_checks import check_fit, check_planner, planner_names
from experiment.rollout_checks import check_rollout

if TYPE_CHECKING:  # its module imports JAX, which reading a configuration can do without
    from envs.spec import EnvSpec

SMALLEST: dict[str, int] = {
    "seed": 0,
    "num_seeds": 1,
    "total_steps": 1,
    "initial_steps": 1,
    "epoch_length": 1,
    "eval_episodes": 1,
    "updates_per_step": 1,
    "update_every": 1,
    "replay_capacity": 1,
    "sac.batch_size": 1,
    "sac.hidden_width": 1,
    "sac.hidden_depth": 1,
    "sac.num_critics": 1,
    "sac.target_update_every": 1,
    "sac.policy_update_every": 1,
    "model.num_members": 1,
    "model.num_elites": 1,
    "model.hidden_width": 1,
    "model.hidden_depth": 1,
    "model.batch_size": 1,
    "model.train_every": 1,
    "model.holdout_max": 1,
    "model.patience": 1,
    "model.max_gradient_steps": 0,
    "model.first_gradient_steps": 0,
    "model.max_epochs": 0,
    "planner.horizon": 1,
    "planner.num_candidates": 1,
    "planner.num_iterations": 1,
    "planner.num_elites": 1,
    "planner.num_particles": 1,
    "dhmbpo.horizon": 1,
    "dhmbpo.distribution_horizon": 1,
    "dhmbpo.ring_capacity": 1,
    "dhmbpo.updates_per_rollout": 1,
    "dhmbpo.critic_updates": 0,
    "dhmbpo.refreshes_per_reset": 0,
    "dhmbpo.early_steps": 1,
    "objective.num_model_samples": 0,
    "objective.vep_count": 1,
    "omd.cg_steps": 1,
    "omd.neumann_terms": 1,
    "omd.inner_steps": 1,
    "omd.diagnose_every": 0,
    "refit.interval": 0,
    "refit.starts": 1,
    "refit.updates": 1,
    "rollout.starts": 1,
    "rollout.retain_steps": 1,
    "flow.horizon": 1,
    "flow.num_starts": 1,
    "flow.recency": 1,
    "flow.num_layers": 1,
    "flow.hidden_width": 1,
    "flow.hidden_depth": 1,
    "flow.num_steps": 0,
    "flow.batch_size": 1,
    "flow.num_candidates": 1,
    "flow.lookahead": 1,
    "flow.refine_steps": 0,
    "flow.refine_starts": 1,
    "flow.flow_steps_per_refinement": 0,
    "checkpoint.every_epochs": 0,
}

_POSITIVE = (
    "sac.learning_rate",
    "sac.critic_learning_rate",
    "sac.policy_learning_rate",
    "sac.temperature_learning_rate",
    "model.learning_rate",
    "model.head_scale",
    "omd.cg_tolerance",
    "planner.gamma",
    "planner.sigma",
    "omd.neumann_step",
    "flow.score_cap",
    "flow.warmup_learning_rate",
    "flow.learning_rate",
    "flow.refine_learning_rate",
    "flow.max_weight",
)

_NOT_NEGATIVE = (
    "sac.max_grad_norm",
    "model.max_grad_norm",
    "objective.value_weight",
    "objective.mle_weight",
    "omd.damping",
    "soft_q.temperature",
    "flow.dv_weight",
    "flow.nll_weight",
    "flow.smoothing",
    "flow.min_divergence",
    "flow.rl_weight",
    "flow.mle_weight",
    "flow.gate_tolerance",
    "model.sl_noise",
    "planner.noise_beta",
)

_WEIGHTS: dict[str, float] = {
    "sac.target_update_rate": 0.005,
    "planner.smoothing": 0.9,
    "planner.beta": 0.9,
    "planner.kept_fraction": 0.3,
}
"""Numbers in (0, 1], and an example of each."""

_RATIOS = (
    "model.holdout_ratio",
    "model.improvement_threshold",
    "model.dropout",
    "model.averaging",
    "rollout.real_ratio",
    "dhmbpo.early_share",
    "soft_q.exploration",
)


def find_spec(env_id: str) -> "EnvSpec | None":
    """Returns the environment's spec, `None` when the registry does not accept the id."""
    from envs import registry  # here, so that reading a configuration does not import a simulator

    try:
        return registry.spec(env_id)
    except UserError:
        return None


def is_functional(env_id: str) -> bool:
    """Whether the dynamics of a registered environment are known as JAX functions."""
    import envs

    return envs.functional(env_id) is not None


def check_names(config: ConfigDict) -> Iterator[str]:
    """Yields fields whose value is not one of a fixed list of names."""
    from agents.filters import FILTERS
    from agents.registry import AGENTS  # these import JAX, reading a configuration does not
    from experiment.metrics import WANDB_MODES
    from experiment.precision import AUTO
    from flows.coupled import SMOOTHING_FORMS, SOFT_CLIPS
    from flows.coupling import FLOW_KINDS
    from flows.estimator import INPUTS
    from flows.filter import RULES
    from flows.reward import ESTIMATORS
    from models.ensemble import ACTIVATIONS, INITIALIZERS, VARIANCES
    from models.mlp import PRODUCTS
    from models.objectives import OBJECTIVES

    allowed: dict[str, Collection[str]] = {
        "algo": RECIPES,
        "agent": AGENTS,
        "use_algo": USE_ALGO,
        "preset": environments.PRESETS,
        "model.objective": OBJECTIVES,
        "precision": (*PRODUCTS, AUTO),
        "model.variance": VARIANCES,
        "model.activation": ACTIVATIONS,
        "model.initializer": INITIALIZERS,
        "rollout.filter": FILTERS,
        "flow.inputs": INPUTS,
        "flow.kind": FLOW_KINDS,
        "flow.smoothing_form": SMOOTHING_FORMS,
        "flow.score_form": SOFT_CLIPS,
        "flow.rule": RULES,
        "flow.estimator": ESTIMATORS,
        "logging.wandb": WANDB_MODES,
        **allowed_names(),
        **omd_names(),
        **planner_names(),
    }
    for name, value in given(config, allowed):
        if value not in allowed[name]:
            nearest = difflib.get_close_matches(value, allowed[name], n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            options = ", ".join(allowed[name])
            yield f"{flag(config, name)} is unknown.{hint} Allowed: {options}."


def check_environment(config: ConfigDict) -> Iterator[str]:
    """Yields what the registry says about the environment, and a reward that nobody knows."""
    from envs import registry

    try:
        spec = registry.spec(config.env)
    except UserError as error:
        yield str(error)
        return
    if uses(config, "model.learn_reward") and not config.model.learn_reward and not spec.reward:
        yield (
            f"{flag(config, 'model.learn_reward')} needs a known reward function, and "
            f"{config.env} has none registered: use --config.model.learn_reward=true."
        )


def check_sizes(config: ConfigDict) -> Iterator[str]:
    """Yields whole numbers below the smallest that makes sense."""
    for name, value in given(config, SMALLEST):
        if value < SMALLEST[name]:
            yield f"{flag(config, name)} is too small: use {SMALLEST[name]} or more."


def check_seeds(config: ConfigDict) -> Iterator[str]:
    """Yields seeds that do not fit the 32 bits of a random key."""
    if config.seed + config.num_seeds > 2**32:
        yield f"{flag(config, 'seed')} is too large: use less than {2**32 - config.num_seeds}."


def check_numbers(config: ConfigDict) -> Iterator[str]:
    """Yields real numbers outside their range; NaN is outside every range."""
    if not 0 < config.discount < 1:
        yield f"{flag(config, 'discount')} is not between 0 and 1: use for example 0.99."
    for name, value in given(config, _WEIGHTS):
        if not 0 < value <= 1:
            yield f"{flag(config, name)} is not in (0, 1]: use for example {_WEIGHTS[name]}."
    for name, value in given(config, _POSITIVE):
        if not 0 < value < math.inf:
            yield f"{flag(config, name)} has to be a positive number."
    for name, value in given(config, _NOT_NEGATIVE):
        if not 0 <= value < math.inf:
            yield f"{flag(config, name)} has to be zero or positive."
    for name, value in given(config, _RATIOS):
        if not 0 <= value < 1:
            yield f"{flag(config, name)} is not a ratio in [0, 1): use for example 0.05."


def check_temperature(config: ConfigDict) -> Iterator[str]:
    """Yields an entropy coefficient that cannot be learned or is negative."""
    temperature = config.sac.initial_temperature
    if temperature is None:
        return
    given_as = flag(config, "sac.initial_temperature")
    if not 0 <= temperature < math.inf:
        yield f"{given_as} has to be zero or positive."
    elif temperature == 0 and config.sac.learn_temperature:
        yield (
            f"{given_as} cannot be learned, its logarithm is infinite: use a positive value or add "
            "--config.sac.learn_temperature=false."
        )


def check_budget(config: ConfigDict) -> Iterator[str]:
    """Yields step counts that contradict each other."""
    initial = config.initial_steps or 0
    if uses(config, "sac.batch_size") and 0 < initial < config.sac.batch_size:
        yield (
            f"{flag(config, 'initial_steps')} leaves fewer transitions than one batch of "
            f"{config.sac.batch_size}: use {config.sac.batch_size} or more, or lower "
            "--config.sac.batch_size."
        )
    if 0 < (config.total_steps or 0) <= initial:
        yield (
            f"{flag(config, 'total_steps')} is used up by the {initial} steps of initial "
            f"exploration: use more than {initial}, or lower --config.initial_steps."
        )
    if 0 < (config.replay_capacity or 0) < initial:
        yield (
            f"{flag(config, 'replay_capacity')} cannot hold the {initial} steps of initial "
            f"exploration: use {initial} or more."
        )


def check_update_every(config: ConfigDict) -> Iterator[str]:
    """Yields epochs in which no whole number of periods of updates fits."""
    every, epoch = config.update_every, config.epoch_length
    if not uses(config, "update_every") or every < 2:
        return
    if None in (epoch, config.total_steps, config.initial_steps):
        return
    learning = config.total_steps - config.initial_steps
    if learning > 0 and (epoch % every or learning % every):
        yield (
            f"{flag(config, 'update_every')} does not divide both epoch_length={epoch} and the "
            f"{learning} steps of learning (total_steps - initial_steps), over which metrics are "
            "averaged: use a divisor of both."
        )


def check_model(config: ConfigDict) -> Iterator[str]:
    """Yields contradictions among the sizes of the dynamics model."""
    model = config.model
    if not uses(config, "model.num_elites") or None in (model.num_members, model.num_elites):
        return
    if model.num_elites > model.num_members > 0:
        yield (
            f"{flag(config, 'model.num_elites')} is more than model.num_members="
            f"{model.num_members}: use {model.num_members} or fewer."
        )
    initial = config.initial_steps or 0
    if 0 < model.holdout_ratio * initial < 1:
        yield (
            f"{flag(config, 'model.holdout_ratio')} holds out none of the first {initial} "
            "transitions: use 0 to score the model on its training rows, or a larger ratio."
        )


def check_weight_decay(config: ConfigDict) -> Iterator[str]:
    """Yields coefficients of the model's weight decay that its layers cannot have."""
    model = config.model
    decay = model.weight_decay
    if not uses(config, "model.weight_decay") or decay is None or (model.hidden_depth or 0) < 1:
        return
    layers = model.hidden_depth + 1
    if not all(is_number(value) and 0 <= value < math.inf for value in decay):
        yield f"{flag(config, 'model.weight_decay')} may hold only zero and positive numbers."
    elif len(decay) not in (1, layers):
        yield (
            f"{flag(config, 'model.weight_decay')} has {len(decay)} values for {layers} layers "
            f"(model.hidden_depth={model.hidden_depth} and the head): give 1 or {layers}."
        )


CHECKS: tuple[Callable[[ConfigDict], Iterator[str]], ...] = (
    check_names,
    check_sizes,
    check_seeds,
    check_numbers,
    check_temperature,
    check_budget,
    check_update_every,
    check_model,
    check_weight_decay,
    check_rollout,
    check_objective,
    check_refit,
    check_aliases,
    check_flow,
    check_agent,
    check_planner,
    check_fit,
    check_one_step,
    check_dhmbpo,
    check_exact,
    check_precision,
    check_environment,  # last: its message can be several lines long
)
