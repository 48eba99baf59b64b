"""Maximum likelihood, the objective of PETS and MBPO."""

import chex
import jax
from ml_collections import ConfigDict

from models.ensemble import Ensemble, gaussian_nll
from models.objectives.base import Context, LossOutput, ModelObjective, ObjectiveState, Parts
from replay import Transition

BOUND_PENALTY = 0.01  # pulls the learned log-variance bounds together (PETS, appendix A.1)


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
        params = with_bounds(config, params, trained=True)
        nll = rows(ensemble, params, batch, context).mean(axis=1)  # [E]
        return nll.sum() + bound_penalty(params), (state, {"train_nll": nll.mean()})

    def score(params, state, batch, context, key) -> chex.Array:
        del state, key
        return rows(ensemble, params, batch, context)

    return ModelObjective(init=lambda key: (), loss=loss, score=score)


def rows(
    ensemble: Ensemble, params: chex.ArrayTree, batch: Transition, context: Context
) -> chex.Array:
    """Returns the negative log-likelihood [E, B] of each row, averaged over target dimensions."""
    prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
    return gaussian_nll(prediction, ensemble.targets(batch)).mean(axis=-1)


def with_bounds(config: ConfigDict, params: chex.ArrayTree, trained: bool) -> chex.ArrayTree:
    """Returns `params` with log-variance bounds that are constants unless they are learned.

    Args:
      config: resolved configuration; `model.learn_variance_bounds`.
      params: of the ensemble.
      trained: whether the loss has the penalty without which learned bounds only drift apart.
    """
    if config.model.learn_variance_bounds and trained:
        return params
    bounds = ("log_variance_min", "log_variance_max")
    return params | {name: jax.lax.stop_gradient(params[name]) for name in bounds}


def bound_penalty(params: chex.ArrayTree) -> chex.Array:
    """Returns the penalty on how far the log-variance bounds are apart."""
    spread = params["log_variance_max"] - params["log_variance_min"]  # [E, D]
    # averaged over members: the published penalty is on bounds that all members share
    return BOUND_PENALTY * spread.sum(axis=1).mean()
