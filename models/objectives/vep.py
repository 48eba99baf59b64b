"""Value equivalence (Grimm et al. 2020, arXiv 2011.03506): same backups for a set of functions."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.mlp import MLP
from models.normalizer import Normalizer
from models.objectives import losses
from models.objectives.base import Context, ModelObjective, ObjectiveState, Parts
from models.objectives.value_aware import Outcome, make_objective
from models.objectives.values import critics_in, make_value, some_critics

RANDOM_WIDTH, RANDOM_DEPTH = 64, 2  # of the network whose outputs are the random functions; ours

Functions = Callable[[ObjectiveState, Context, chex.Array, chex.PRNGKey], chex.Array]
"""`(objective_state, context, observation [..., O], key) -> v [F, ...]`, F functions."""


def make(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the mean over functions v of the squared difference of their backups.

    The backups are those of the policy that collected the data, one action per state.
    """
    functions, init, begin = SETS[config.objective.vep_functions](config, parts)
    per_row = losses.bellman_difference
    for _ in range(2):  # over B, then E
        per_row = jax.vmap(per_row, in_axes=(0, 0, 0, 1, 1, 1), out_axes=1)

    def rows(
        state: ObjectiveState, real: Outcome, predicted: Outcome, context: Context, key
    ) -> chex.Array:
        real_key, model_key = jax.random.split(key)
        v = functions(state, context, real.observation, real_key)
        predicted_v = functions(state, context, predicted.observation, model_key)
        discount, predicted_discount = (config.discount * x.alive for x in (real, predicted))

        def one(v: chex.Array, predicted_v: chex.Array) -> chex.Array:
            model = predicted.reward, predicted_discount, predicted_v
            return losses.squared(per_row(real.reward, discount, v, *model))

        return config.objective.value_weight * jax.vmap(one)(v, predicted_v).mean(axis=0)

    return make_objective(config, parts, rows, init=init, begin=begin)


def _random(config: ConfigDict, parts: Parts) -> tuple:
    """Outputs of one random network, which sees z-scored states and is never trained."""
    net = MLP(config.objective.vep_count, RANDOM_WIDTH, RANDOM_DEPTH, activation=jnp.tanh)
    size = parts.spec.observation_size

    def functions(state, context: Context, observation, key) -> chex.Array:
        del key
        inputs = context.normalizers.inputs
        states = Normalizer(inputs.mean[:size], inputs.std[:size])
        return jnp.moveaxis(net.apply(state, states.normalize(observation)), -1, 0)

    return functions, lambda key: net.init(key, jnp.zeros(size)), None


def _history(config: ConfigDict, parts: Parts) -> tuple:
    """The critics at the starts of the last fits, the oldest replaced by the newest."""
    value = make_value(config, parts, discounted=False)  # the backup discounts it

    def init(key: chex.PRNGKey) -> ObjectiveState:
        keys = jax.random.split(key, config.objective.vep_count)
        return jax.vmap(lambda key: some_critics(parts.init_critics(key), config))(keys)

    def begin(state: ObjectiveState, context: Context, key: chex.PRNGKey) -> ObjectiveState:
        del key
        newest = critics_in(context, config)
        return jax.tree.map(lambda old, new: jnp.roll(old, 1, axis=0).at[0].set(new), state, newest)

    def functions(state, context: Context, observation, key) -> chex.Array:
        return jax.vmap(value, (0, None, None, None))(state, context, observation, key)

    return functions, init, begin


SETS = {"random": _random, "critics": _history}
