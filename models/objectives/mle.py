"""Maximum likelihood, the objective of PETS and MBPO."""

import chex
from ml_collections import ConfigDict

from models.ensemble import Ensemble, bound_penalty, gaussian_nll, with_bounds
from models.objectives.base import Context, LossOutput, ModelObjective, ObjectiveState, Parts
from replay import Transition


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the Gaussian negative log-likelihood, with or without learned variance bounds."""
    ensemble = parts.ensemble

    def loss(
        params: chex.ArrayTree,
        state: ObjectiveState,
        batch: Transition,
        context: Context,
        key: chex.PRNGKey,
    ) -> LossOutput:
        del key
        params = with_bounds(params, learned=config.model.learn_variance_bounds)
        nll = row_losses(ensemble, params, batch, context).mean(axis=1)  # [E]
        return nll.sum() + bound_penalty(params), (state, {"train_nll": nll.mean()})

    def score(params, state, batch, context, key) -> chex.Array:
        del state, key
        return row_losses(ensemble, params, batch, context)

    return ModelObjective(init=lambda key: (), loss=loss, score=score)


def row_losses(
    ensemble: Ensemble, params: chex.ArrayTree, batch: Transition, context: Context
) -> chex.Array:
    """Returns the negative log-likelihood [E, B] of each row, averaged over target dimensions."""
    prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
    return gaussian_nll(prediction, ensemble.targets(batch)).mean(axis=-1)
