"""What can be wrong with the choice of the agent, and with one-step agents."""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from agents.recipes import RECIPES
from errors import UserError
from experiment.fields import flag, uses

if TYPE_CHECKING:
    from envs.spec import EnvSpec

# Critic parameters whose Hessian may be formed. It has 64 MiB then, its solution takes 5e10
# operations, and both are needed for every step, seed and member. The published critics on CartPole
# have 2,564 parameters.
EXACT_LIMIT = 4_096


def omd_names() -> dict[str, Collection[str]]:
    """Returns the values that fields of the block `omd` with a fixed list of names may have."""
    from omd.implicit import INVERSES  # imports JAX, reading a configuration does not

    return {"omd.inverse": INVERSES}


def check_agent(config: ConfigDict) -> Iterator[str]:
    """Yields recipes that the agent cannot cook, and actions that it cannot take."""
    from agents.registry import AGENTS  # these import JAX, reading a configuration does not
    from envs import registry

    recipe = RECIPES.get(config.algo)
    if recipe is None:
        return
    agent = config.agent
    # an unknown agent is reported with the other names
    if agent in AGENTS and (recipe.objective is None) != (agent == "sac"):
        fix = "leave it out" if recipe.objective is None else "use --config.algo=sac for no model"
        yield f"{flag(config, 'agent')} does not go with {flag(config, 'algo')}: {fix}."
    if recipe.filter not in (None, "none") and agent == "dyna":
        yield (
            f"{flag(config, 'agent')} has no rollouts that {flag(config, 'algo')} could filter: "
            "use --config.agent=mbpo."
        )
    try:
        spec = registry.spec(config.env)
    except UserError:
        return  # reported with the environment
    if spec.discrete and agent in ("sac", "mbpo", "dhmbpo", "mpc"):
        yield (
            f"{config.env} has discrete actions, which {flag(config, 'agent')} cannot take: use "
            "--config=configs/omd_cartpole.py, or --config.agent=dyna and an algo that has a model."
        )
    if config.env_on_device and registry.functional(config.env) is None:
        yield (
            f"{flag(config, 'env_on_device')} needs the dynamics as JAX functions, and "
            f"{config.env} has none registered: use --config.env_on_device=false."
        )


def check_one_step(config: ConfigDict) -> Iterator[str]:
    """Yields what one-step agents cannot do: batches that do not divide, parts of a fit."""
    if config.agent != "dyna":
        return
    members, rows = config.model.num_members or 1, config.sac.batch_size
    if members > 0 and rows % members:
        yield (
            f"{flag(config, 'sac.batch_size')} cannot be shared equally by model.num_members="
            f"{members}: use {max(rows - rows % members, members)}."
        )
    if config.model.normalize_targets and config.algo != "cf_mbpo":  # refused with its filter
        yield (
            f"{flag(config, 'model.normalize_targets')}: a one-step agent never fits normalisers. "
            "Leave it out, or use --config.agent=mbpo."
        )
    if config.model.variance == "holdout":
        yield (
            f"{flag(config, 'model.variance')}: a one-step agent holds no rows out. Use head or "
            "constant, or --config.agent=mbpo."
        )
    if config.model.objective == "vep" and config.objective.vep_functions == "critics":
        yield (
            f"{flag(config, 'objective.vep_functions')} are those at the starts of the last fits, "
            "of which a one-step agent has none: use random or networks."
        )


def check_exact(config: ConfigDict) -> Iterator[str]:
    """Yields critics that are too large for a Hessian that is formed and solved."""
    from envs import registry

    sizes = (config.sac.hidden_width, config.sac.hidden_depth, config.sac.num_critics)
    exact = config.model.objective == "omd" and config.omd.inverse == "exact"
    if not exact or not uses(config, "omd.inverse") or None in sizes or min(sizes) < 1:
        return
    try:
        count = count_critic_parameters(config, registry.spec(config.env))
    except UserError:
        return  # reported with the environment
    if count > EXACT_LIMIT:
        yield (
            f"{flag(config, 'omd.inverse')} would form the Hessian of {count} critic parameters, "
            f"{4 * count**2 / 1e9:.1f} GB, at every step: use --config.omd.inverse=cg, or at most "
            f"{EXACT_LIMIT} parameters by a smaller --config.sac.hidden_width."
        )


def check_precision(config: ConfigDict) -> Iterator[str]:
    """Yields hypergradients through products that only have a gradient."""
    omd = uses(config, "model.objective") and config.model.objective == "omd"
    if omd and config.precision in ("bfloat16", "auto"):
        yield (
            f"{flag(config, 'precision')}: model.objective=omd takes derivatives of gradients, "
            "which products in bfloat16 do not have. Use --config.precision=float32."
        )


def count_critic_parameters(config: ConfigDict, spec: "EnvSpec") -> int:
    """Returns how many numbers all critics of a one-step agent have together."""
    hyper, observations, actions = config.sac, spec.observation_size, spec.action_size
    ends = (observations, actions) if spec.discrete else (observations + actions, 1)
    layers = (ends[0], *[hyper.hidden_width] * hyper.hidden_depth, ends[1])
    norms = 2 * hyper.hidden_width * hyper.hidden_depth if hyper.layer_norm else 0
    return hyper.num_critics * (norms + sum((n + 1) * m for n, m in pairwise(layers)))
