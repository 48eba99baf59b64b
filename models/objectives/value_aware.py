"""What the value-aware objectives share: predictions, masks, reward term, weights."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.ensemble import bound_penalty, predicted_transition, with_bounds
from models.objectives import mle
from models.objectives.base import Context, LossOutput, ModelObjective, ObjectiveState, Parts
from replay import Transition

REDUCTIONS: dict[str, Callable[[chex.Array], chex.Array]] = {
    "mean": lambda rows: rows.mean(axis=1).sum(),
    "sum": lambda rows: rows.sum(),
}
"""From rows [E, B] to a loss. Members are summed either way, so that none depends on the others."""


class Outcome(NamedTuple):
    """What follows a batch of states and actions. Predictions have a leading axis of S samples."""

    observation: chex.Array  # [(S,) E, B, O]
    reward: chex.Array  # [(S,) E, B]
    alive: chex.Array  # [(S,) E, B], 0 where the episode has terminated (all 1 without the mask)


Rows = Callable[[ObjectiveState, Outcome, Outcome, Context, chex.PRNGKey], chex.Array]
"""`(objective_state, real, predicted, context, key) -> [E, B]`: the value-aware part."""


def make_objective(
    config: ConfigDict,
    parts: Parts,
    rows: Rows,
    *,
    init: Callable[[chex.PRNGKey], ObjectiveState] = lambda key: (),
    begin: Callable[[ObjectiveState, Context], ObjectiveState] | None = None,
    scored: Rows | None = None,
) -> ModelObjective:
    """Builds `value_weight` times `rows` plus `mle_weight` times the likelihood.

    Args:
      config: resolved configuration; its block `objective`.
      parts: functions of the agent.
      rows: the value-aware loss of every row, reward included.
      init: of the objective's own state.
      begin: of the `ModelObjective`.
      scored: the same rows for held-out data, if they are not to depend on the rest of a batch.
    """
    hyper = config.objective
    reduce = REDUCTIONS[hyper.reduction]

    def row_losses(rows: Rows, params, state, batch, context: Context, key) -> chex.Array:
        prediction_key, value_key = jax.random.split(key)
        context = jax.lax.stop_gradient(context)
        predicted = predict(params, batch, context, prediction_key)
        real = Outcome(batch.next_observation, batch.reward, _alive(batch.terminated))
        # A termination that the model alone sees is no reason to ignore where its state is: only
        # where the episode really ended does the model's own verdict count.
        ended = real.alive[None] == 0
        predicted = predicted._replace(alive=jnp.where(ended, predicted.alive, 1.0))
        total = rows(state, real, predicted, context, value_key)
        if hyper.mle_weight:
            total = total + hyper.mle_weight * mle.row_losses(
                parts.ensemble, params, batch, context
            )
        return total

    def predict(params, batch: Transition, context: Context, key) -> Outcome:
        prediction = parts.ensemble.predict(
            params, context.normalizers, batch.observation, batch.action
        )
        if hyper.num_model_samples == 0:
            targets = prediction.mean[None]
        else:
            keys = jax.random.split(key, hyper.num_model_samples)
            targets = jax.vmap(prediction.sample)(keys)
        outcome = jax.vmap(
            lambda target: predicted_transition(
                parts.ensemble, parts.spec, batch.observation, batch.action, target
            )
        )(targets)
        return Outcome(outcome.next_observation, outcome.reward, _alive(outcome.terminated))

    def _alive(terminated: chex.Array) -> chex.Array:
        if not hyper.mask_terminal:
            return jnp.ones(terminated.shape)
        return 1.0 - jax.lax.stop_gradient(terminated)

    def loss(params, state, batch, context, key) -> LossOutput:
        # Without the likelihood nothing holds learned bounds together.
        learned = config.model.learn_variance_bounds and bool(hyper.mle_weight)
        params = with_bounds(params, learned)
        values = row_losses(rows, params, state, batch, context, key)
        total = reduce(values)
        if hyper.mle_weight:
            total = total + hyper.mle_weight * bound_penalty(params)
        return total, (state, {"train_loss": values.mean()})

    return ModelObjective(init, loss, functools.partial(row_losses, scored or rows), begin)


def reward_error(real: Outcome, predicted: Outcome) -> chex.Array:
    """Returns the difference [S, E, B] of real and predicted rewards."""
    return real.reward[None] - predicted.reward
