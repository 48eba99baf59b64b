"""VaGraM: errors weighted by the gradient of the value (Voelcker et al. 2022, arXiv 2204.01464)."""

import functools

import chex
import jax
from ml_collections import ConfigDict

from models.objectives import losses
from models.objectives.base import Context, ModelObjective, ObjectiveState, Parts
from models.objectives.value_aware import Outcome, make_objective, reward_error
from models.objectives.values import critics_in, make_value

FORMS = {"bounded": losses.vagram_bounded, "taylor": losses.vagram_taylor}


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the value-gradient weighted error of s' plus the squared error of the reward."""
    hyper = config.objective
    value = make_value(config, parts, discounted=hyper.include_discount)
    form = FORMS[hyper.vagram_form]
    per_row = jax.vmap(jax.vmap(form, in_axes=(0, 1)), in_axes=(0, 1))  # over E, then B

    def rows(
        quantile: float,
        state: ObjectiveState,
        real: Outcome,
        predicted: Outcome,
        context: Context,
        key: chex.PRNGKey,
    ) -> chex.Array:
        del state

        def total_value(observation: chex.Array) -> chex.Array:
            return value(critics_in(context, config), context, observation, key).sum()

        gradient = jax.lax.stop_gradient(jax.grad(total_value)(real.observation))
        gradient = real.alive[..., None] * gradient  # the value of a terminal state is constant
        if quantile < 1:
            gradient = losses.clip_norms(gradient, quantile)
        error = real.observation[None] - predicted.observation
        weighted = hyper.value_weight * per_row(gradient, error)
        return weighted + losses.squared(reward_error(real, predicted))

    clipped, whole = (functools.partial(rows, q) for q in (hyper.gradient_quantile, 1.0))
    return make_objective(config, parts, clipped, scored=whole)
