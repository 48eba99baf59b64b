"""Mean squared error of the predicted mean."""

import chex
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.objectives.base import LossOutput, ModelObjective, Parts


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the squared error, in standard deviations of the targets where those are z-scored."""
    del config
    ensemble = parts.ensemble

    def score(params, state, batch, context, key) -> chex.Array:
        del state, key
        prediction = ensemble.predict(params, context.normalizers, batch.observation, batch.action)
        error = prediction.mean - ensemble.targets(batch)
        return jnp.square(error / context.normalizers.targets.std[None, None]).mean(axis=-1)

    def loss(params, state, batch, context, key) -> LossOutput:
        mse = score(params, state, batch, context, key).mean(axis=1)  # [E]
        return mse.sum(), (state, {"train_mse": mse.mean()})

    return ModelObjective(init=lambda key: (), loss=loss, score=score)
