"""Value equivalence (Grimm et al. 2020, arXiv 2011.03506): same backups for a set of functions."""

from collections.abc import Callable

import chex
import jax
from ml_collections import ConfigDict

from models.objectives import losses
from models.objectives.base import Context, ModelObjective, ObjectiveState, Parts
from models.objectives.value_aware import Outcome, Rows, make_objective, reward_error
from models.objectives.vep_functions import SETS, Functions


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns how differently environment and model back up a set of functions v.

    The backups are those of the policy that collected the data, one action per state.
    """
    functions = SETS[config.objective.vep_functions](config, parts)
    rows = FORMS[config.objective.vep_form](config, functions)
    return make_objective(config, parts, rows, init=functions.init, begin=functions.begin)


def backup(config: ConfigDict, functions: Functions) -> Rows:
    """Returns the mean over functions of the squared difference of their backups (eq. 4)."""
    per_row = losses.bellman_difference
    for _ in range(2):  # over B, then E
        per_row = jax.vmap(per_row, in_axes=(0, 0, 0, 1, 1, 1), out_axes=1)

    def rows(
        state: ObjectiveState, real: Outcome, predicted: Outcome, context: Context, key
    ) -> chex.Array:
        real_key, model_key = jax.random.split(key)
        v = functions.evaluate(state, context, real.observation, real_key)
        predicted_v = functions.evaluate(state, context, predicted.observation, model_key)
        discount, predicted_discount = (config.discount * x.alive for x in (real, predicted))

        def one(v: chex.Array, predicted_v: chex.Array) -> chex.Array:
            model = predicted.reward, predicted_discount, predicted_v
            return losses.squared(per_row(real.reward, discount, v, *model))

        return config.objective.value_weight * jax.vmap(one)(v, predicted_v).mean(axis=0)

    return rows


def separate(config: ConfigDict, functions: Functions) -> Rows:
    """Returns the squared errors of v(s'), undiscounted and summed over v, and that of the reward.

    As in the released code of Nikishin et al. 2022 (arXiv 2106.03273, the baseline on CartPole).
    """

    def rows(
        state: ObjectiveState, real: Outcome, predicted: Outcome, context: Context, key
    ) -> chex.Array:
        real_key, model_key = jax.random.split(key)
        v = functions.evaluate(state, context, real.observation, real_key)  # [F, E, B]
        predicted_v = functions.evaluate(state, context, predicted.observation, model_key)
        error = (real.alive[None] * v)[:, None] - predicted.alive[None] * predicted_v
        values = jax.vmap(losses.squared)(error).sum(axis=0)
        reward = losses.squared(reward_error(real, predicted))
        return config.objective.value_weight * values + reward

    return rows


FORMS: dict[str, Callable[[ConfigDict, Functions], Rows]] = {"backup": backup, "separate": separate}
"""Values of `objective.vep_form`."""
