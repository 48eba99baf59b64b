"""Value refitting: the critics follow the model while it is fitted (Modhe et al. 2021, section 4).

A value-aware loss asks a value function that was learned in the model of the last refresh. As the
model moves, that value goes stale; so every few gradient steps of the model the critics are
trained on fresh rollouts in it: policy evaluation, with the policy and its temperature as they are.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from agents.sac import SAC, SACState
from models.objectives import Context, Parts
from models.rollout import keep_all, make_rollout
from models.training import NO_REFIT, ModelState, Refit
from replay import ReplayState, buffer


class Learner(NamedTuple):
    """What a refit changes, and what it needs."""

    sac: SACState  # its critics change
    model_replay: ReplayState  # emptied and filled again
    window: chex.Array  # int32 [], model transitions in use
    replay: ReplayState  # real transitions, start states of the rollouts
    length: chex.Array  # int32 [], steps of the rollouts


def make_refit(config: ConfigDict, parts: Parts, policy_learner: SAC) -> Refit:
    """Builds the refit of a resolved configuration (its `refit` block)."""
    hyper = config.refit
    if not hyper.interval:
        return NO_REFIT
    generate = make_rollout(config, parts, keep_all(config, parts), hyper.starts)

    def run(
        model: ModelState, learner: Learner, context: Context, count: chex.Array, key: chex.PRNGKey
    ) -> tuple[Learner, Context]:
        rollout_key, sample_key, update_key = jax.random.split(key, 3)
        model_replay, metrics = generate(
            model,
            learner.sac.policy,
            (),
            learner.replay,
            buffer.empty(learner.model_replay),
            learner.length,
            rollout_key,
        )

        def update(i: chex.Array, sac: SACState) -> SACState:
            batch = buffer.sample(
                model_replay, jax.random.fold_in(sample_key, i), config.sac.batch_size
            )
            return policy_learner.update_critics(
                sac,
                batch.transition,
                jax.random.fold_in(update_key, i),
                batch.weight,
                count * hyper.updates + i + 1,
            )[0]

        # A model that leaves the numbers generates nothing to learn from.
        updates = jnp.where(metrics["rollout/transitions"] > 0, hyper.updates, 0)
        sac = jax.lax.fori_loop(0, updates, update, learner.sac)
        learner = learner._replace(
            sac=sac, model_replay=model_replay, window=metrics["rollout/transitions"]
        )
        return learner, context.replace(critics=sac.critics, target_critics=sac.target_critics)

    return Refit(hyper.interval, run)
