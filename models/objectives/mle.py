"""Maximum likelihood, the objective of PETS and MBPO."""

import chex
import jax
from ml_collections import ConfigDict

from models.ensemble import gaussian_nll
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
        if not config.model.learn_variance_bounds:
            bounds = ("log_variance_min", "log_variance_max")
            params = params | {name: jax.lax.stop_gradient(params[name]) for name in bounds}
        prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
        nll = gaussian_nll(prediction, ensemble.targets(batch)).mean(axis=(1, 2))  # [E]
        spread = params["log_variance_max"] - params["log_variance_min"]  # [E, D]
        # averaged over members: the published penalty is on bounds that all members share
        penalty = BOUND_PENALTY * spread.sum(axis=1).mean()
        return nll.sum() + penalty, (state, {"train_nll": nll.mean()})

    return ModelObjective(init=lambda key: (), loss=loss)
