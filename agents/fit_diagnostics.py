"""What is reported about a model after every fit, by agents that fit it to a replay."""

from collections.abc import Callable

import chex
import jax
from ml_collections import ConfigDict

from flows.evaluation import open_loop_error
from flows.segments import real_segments
from models.objectives import Context, ModelObjective, Parts, omd_diagnostics
from models.objectives.diagnostics import make_diagnostics
from models.training import ModelState
from replay import ReplayState, buffer

OPEN_LOOP_STEPS, OPEN_LOOP_SEGMENTS = 5, 1000
OPEN_LOOP_KEY, DIAGNOSTICS_KEY = 4, 5  # folded into the agent's key, whose split makes 0 to 3

Diagnose = Callable[[ModelState, Context, ReplayState, chex.PRNGKey], dict[str, chex.Array]]
"""`(model, context, replay, key) -> metrics`; the key is only folded into."""


def make_fit_diagnostics(config: ConfigDict, parts: Parts, objective: ModelObjective) -> Diagnose:
    """Builds the comparison of a fitted model with real segments, and of its objective with MLE."""
    diagnose_objective = make_diagnostics(config, parts, objective)
    diagnose_omd = omd_diagnostics.make_diagnostics(config, parts)

    def diagnose(
        model: ModelState, context: Context, replay: ReplayState, key: chex.PRNGKey
    ) -> dict[str, chex.Array]:
        segments = real_segments(
            jax.random.fold_in(key, OPEN_LOOP_KEY),
            replay,
            OPEN_LOOP_SEGMENTS,
            horizon=OPEN_LOOP_STEPS,
            recency=replay.capacity,
        )
        error = open_loop_error(parts, model, model.elite_params(), segments)
        metrics = {f"model/open_loop_{k}": error[k - 1] for k in (1, OPEN_LOOP_STEPS)}
        batch_key, own_key = jax.random.split(jax.random.fold_in(key, DIAGNOSTICS_KEY))
        shape = config.model.num_members, config.model.batch_size
        rows = buffer.sample(replay, batch_key, shape[0] * shape[1])
        batch = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
        if config.model.objective == "omd":
            own = context.replace(
                critics=model.objective.online, target_critics=model.objective.target
            )
            metrics |= diagnose_omd(model.params, batch, own, own_key)
        return metrics | diagnose_objective(
            model, context, segments.transition, segments.valid, batch, own_key
        )

    return diagnose
