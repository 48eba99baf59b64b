"""What can be wrong with double-horizon MBPO: sizes, and parts of MBPO that it lacks."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from experiment.fields import flag


def check_dhmbpo(config: ConfigDict) -> Iterator[str]:
    """Yields batches that the elites cannot share, rings that are too small, and absent parts."""
    if config.agent != "dhmbpo":
        return
    rows, elites = config.sac.batch_size, config.model.num_elites
    if rows > 0 and elites > 0 and rows % elites:
        yield (
            f"{flag(config, 'sac.batch_size')} cannot be shared equally by model.num_elites="
            f"{elites}: use {max(rows - rows % elites, elites)}."
        )
    capacity, starts = config.dhmbpo.ring_capacity, config.rollout.starts or 0
    if 0 < capacity < starts:
        yield (
            f"{flag(config, 'dhmbpo.ring_capacity')} cannot hold what one step of all rollouts "
            f"adds: use {starts} or more, or lower {flag(config, 'rollout.starts')}."
        )
    if config.refit.interval:
        yield (
            f"{flag(config, 'refit.interval')}: double-horizon MBPO does not refit critics within "
            "a model fit. Use --config.refit.interval=0, or --config.agent=mbpo."
        )
    if config.model.sl_noise > 0:
        yield (
            f"{flag(config, 'model.sl_noise')}: double-horizon MBPO fits its model to clean "
            "observations. Use --config.model.sl_noise=0, or --config.agent=mbpo."
        )
    ruled = config.rollout.filter in ("flow_discriminator", "flow_both")
    if ruled and config.flow.rule == "weight":
        yield (
            f"{flag(config, 'flow.rule')}: double-horizon MBPO learns from states, which have no "
            "weights. Use --config.flow.rule=filter or plan, or --config.agent=mbpo."
        )
