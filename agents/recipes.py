"""What an algorithm name stands for. Needs no JAX, so a misspelt name is reported at once."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """One algorithm, as a choice for each swap point.

    Attributes:
      agent: module in `agents/` that composes the parts, unless `config.agent` names another.
      objective: model training loss, a name in `models.objectives.OBJECTIVES`; `None` without a
        model.
      filter: rollout filter, a name in `agents.filters.FILTERS`; `None` without model rollouts.
    """

    agent: str
    objective: str | None
    filter: str | None


RECIPES: dict[str, Recipe] = {
    "sac": Recipe("sac", None, None),
    "omd": Recipe("dyna", "omd", None),
    "mle": Recipe("dyna", "mse", None),  # the likelihood of a Gaussian whose variance is fixed
    "mpc": Recipe("mpc", "mse", None),
    "pets": Recipe("mpc", "mle", None),
    "mbpo": Recipe("mbpo", "mle", "none"),
    "dhmbpo": Recipe("dhmbpo", "mle", "none"),
    "vaml": Recipe("mbpo", "vaml", "none"),
    "ma_l1": Recipe("mbpo", "ma_l1", "none"),
    "vep": Recipe("mbpo", "vep", "none"),
    "vagram": Recipe("mbpo", "vagram", "none"),
    "cf_mbpo": Recipe("mbpo", "mle", "flow_both"),
}

PLANNER_FIELDS: dict[str, tuple[str, ...]] = {
    "random_shooting": ("num_candidates",),
    "cem": (
        "num_candidates",
        "num_elites",
        "num_iterations",
        "smoothing",
        "sampler",
        "warm_start",
        "execute_best",
    ),
    "icem": (
        "num_candidates",
        "num_elites",
        "num_iterations",
        "smoothing",
        "noise_beta",
        "decay",
        "kept_fraction",
        "execute_best",
    ),
    "mppi": ("num_candidates", "num_iterations", "gamma", "sigma", "beta"),
}
"""Planner -> the arguments it is built with, which are fields of the block `planner`."""

USE_ALGO: dict[str, str] = {
    "mbpo": "none",
    "discriminator": "flow_discriminator",
    "reward": "flow_reward",
    "both": "flow_both",
}
"""What `config.use_algo` makes of cf_mbpo: its rollout filter."""
