"""What can be wrong with the `flow` block of a configuration."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from agents.recipes import RECIPES, USE_ALGO
from experiment.fields import flag, get, is_number, uses

# Environment steps per flow.horizon until the first segment is held out: a chunk is four horizons
# long, and the fifth is the first to be held out (flows/segments.py).
SEGMENT_CHUNKS = 20


def check_flow(config: ConfigDict) -> Iterator[str]:
    """Yields what the coupled flows cannot work with."""
    if config.use_algo is not None and config.algo != "cf_mbpo" and config.algo in RECIPES:
        yield (
            f"{flag(config, 'use_algo')} means nothing to {flag(config, 'algo')}: use "
            "--config.algo=cf_mbpo, or leave it out."
        )
    implied = USE_ALGO.get(config.use_algo) if config.algo == "cf_mbpo" else None
    if implied and config.rollout.filter != implied:
        yield (
            f"{flag(config, 'rollout.filter')} contradicts {flag(config, 'use_algo')}, which "
            f"stands for {implied}: leave one of them out."
        )
    if not uses(config, "flow.horizon"):
        return
    flow, elites = config.flow, config.model.num_elites
    if flow.num_starts > 0 and elites > 0 and flow.num_starts % elites:
        yield (
            f"{flag(config, 'flow.num_starts')} cannot be shared equally by model.num_elites="
            f"{elites}: use {flow.num_starts + elites - flow.num_starts % elites}."
        )
    if not 0 < flow.min_kept <= 1:
        yield f"{flag(config, 'flow.min_kept')} is not a fraction in (0, 1]: use for example 0.5."
    if not 0 < flow.discount <= 1:
        yield f"{flag(config, 'flow.discount')} is not in (0, 1]: use for example 0.99."
    if len(flow.squash) != 2 or not all(is_number(v) and 0 < v < math.inf for v in flow.squash):
        yield f"{flag(config, 'flow.squash')} has to be two positive numbers (a, b): use (2, 2)."
    if len(flow.warmup_steps) != 2 or not all(type(v) is int and v >= 0 for v in flow.warmup_steps):
        yield (
            f"{flag(config, 'flow.warmup_steps')} has to be two whole numbers, likelihood steps "
            "and steps of the full loss: use (1000, 500)."
        )
    if flow.dv_weight == flow.nll_weight == 0:
        yield (
            f"{flag(config, 'flow.dv_weight')} and {flag(config, 'flow.nll_weight')} leave the "
            "flows nothing to learn: make one of them positive."
        )
    refines = config.rollout.filter in ("flow_reward", "flow_both")
    if refines and flow.estimator == "ac" and flow.inputs in ("sa", "sar"):
        yield (
            f"{flag(config, 'flow.estimator')} rewards single decisions, whose next state "
            f"{flag(config, 'flow.inputs')} does not see: use sas or sars."
        )
    if refines and flow.horizon == 1 and flow.inputs == "sa":
        yield (
            f"{flag(config, 'flow.inputs')} sees nothing of the model within "
            f"{flag(config, 'flow.horizon')}: use sars, or two steps or more."
        )
    if flow.conditional and flow.inputs == "sa":
        yield (
            f"{flag(config, 'flow.conditional')} scores the outcome of an action, which "
            f"{flag(config, 'flow.inputs')} does not see: use sar, sas or sars."
        )
    needed = SEGMENT_CHUNKS * flow.horizon
    for name in ("initial_steps", "replay_capacity", "flow.recency"):
        if 0 < (get(config, name) or 0) < needed:
            yield (
                f"{flag(config, name)} leaves no room to hold segments of {flow.horizon} steps "
                f"out: use {needed} or more, or lower --config.flow.horizon."
            )
