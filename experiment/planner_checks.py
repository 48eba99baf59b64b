"""What can be wrong with planners, and with fits that stop after a fixed number of steps."""

from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from agents.recipes import PLANNER_FIELDS
from experiment.fields import flag, uses

PLAIN = ("mle", "mse")
"""Objectives that know nothing of a policy, of which a planner has none."""


def planner_names() -> dict[str, Collection[str]]:
    """Returns the values that fields about planners and their fits may have."""
    from planners.cem import SAMPLERS  # import JAX, reading a configuration does not
    from planners.trajectories import PROPAGATIONS

    return {
        "planner.name": PLANNER_FIELDS,
        "planner.sampler": SAMPLERS,
        "planner.propagation": PROPAGATIONS,
        "model.keep": ("best", "last"),
    }


def check_planner(config: ConfigDict) -> Iterator[str]:
    """Yields what planners cannot do, or lack."""
    if config.agent != "mpc":
        return
    planner = config.planner
    for name in planner:
        if planner[name] is None and uses(config, f"planner.{name}"):
            yield (
                f"--config.planner.{name} is not set: give it, or use --config.algo=mpc or pets, "
                "which have defaults."
            )
    objective = config.model.objective
    if objective is not None and objective not in PLAIN:
        yield (
            f"{flag(config, 'model.objective')} needs a policy, and {flag(config, 'agent')} has "
            f"none: use {' or '.join(PLAIN)}."
        )
    sizes = planner.num_elites, planner.num_candidates
    if uses(config, "planner.num_elites") and None not in sizes and sizes[0] > sizes[1]:
        yield (
            f"{flag(config, 'planner.num_elites')} is more than planner.num_candidates={sizes[1]}: "
            f"use {sizes[1]} or fewer."
        )
    if uses(config, "planner.decay") and planner.decay is not None and not planner.decay >= 1:
        yield f"{flag(config, 'planner.decay')} would add candidates: use 1 or more."


def check_fit(config: ConfigDict) -> Iterator[str]:
    """Yields fits that never end, and constant targets that nothing could find."""
    model = config.model
    capped = model.max_gradient_steps or model.max_epochs
    if uses(config, "model.keep") and model.keep == "last" and not capped:
        yield (
            f"{flag(config, 'model.keep')} has no rule when to stop: give "
            "--config.model.max_gradient_steps or --config.model.max_epochs."
        )
    freezes = uses(config, "model.freeze_constant") and model.freeze_constant
    if freezes and not model.normalize_targets:
        yield (
            f"{flag(config, 'model.freeze_constant')} needs the statistics of the targets: add "
            "--config.model.normalize_targets=true."
        )
