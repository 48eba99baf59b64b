"""MA-L1 (Modhe et al. 2021, arXiv 2106.14080) and VAML (Farahmand 2018, IterVAML)."""

import functools
from collections.abc import Callable

import chex
import jax
from ml_collections import ConfigDict

from models.objectives import losses
from models.objectives.base import Context, ModelObjective, ObjectiveState, Parts
from models.objectives.value_aware import Outcome, make_objective, reward_error
from models.objectives.values import critics_in, make_value


def make(
    norm: Callable[[chex.Array], chex.Array], config: ConfigDict, parts: Parts
) -> ModelObjective:
    """Returns the norm of V(s') - V(model's s') plus the squared error of the reward."""
    value = make_value(config, parts, discounted=config.objective.include_discount)

    def rows(
        state: ObjectiveState, real: Outcome, predicted: Outcome, context: Context, key
    ) -> chex.Array:
        del state
        real_key, model_key = jax.random.split(key)
        params = critics_in(context, config)
        v = real.alive * value(params, context, real.observation, real_key)
        predicted_v = predicted.alive * value(params, context, predicted.observation, model_key)
        advantage = jax.vmap(
            jax.vmap(losses.model_advantage, in_axes=(0, 1), out_axes=1), (0, 1), 1
        )
        va = norm(advantage(v, predicted_v))
        return config.objective.value_weight * va + losses.squared(reward_error(real, predicted))

    return make_objective(config, parts, rows)


ma_l1 = functools.partial(make, losses.absolute)
vaml = functools.partial(make, losses.squared)
