"""The sets of functions that a value-equivalent model has to back up as the environment does."""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.mlp import MLP, init_ensemble, orthogonal
from models.normalizer import Normalizer
from models.objectives.base import Context, ObjectiveState, Parts
from models.objectives.values import critics_in, make_value, some_critics

GAIN, HEAD_GAIN = math.sqrt(2.0), 0.01  # of the orthogonal weights of `random_networks`
RANDOM_WIDTH, RANDOM_DEPTH = 64, 2  # of the network whose outputs are the random functions; ours


class Functions(NamedTuple):
    """F functions of the state. Their parameters are the objective's state.

    Attributes:
      init: `(key) -> objective_state`.
      begin: `(objective_state, context) -> objective_state`, before every fit; None: nothing.
      evaluate: `(objective_state, context, observation [..., O], key) -> v [F, ...]`.
    """

    init: Callable[[chex.PRNGKey], ObjectiveState]
    begin: Callable[[ObjectiveState, Context], ObjectiveState] | None
    evaluate: Callable[[ObjectiveState, Context, chex.Array, chex.PRNGKey], chex.Array]


def random_functions(config: ConfigDict, parts: Parts) -> Functions:
    """Outputs of one random network, which sees normalised states and is never trained."""
    net = MLP(config.objective.vep_count, RANDOM_WIDTH, RANDOM_DEPTH, activation=jnp.tanh)
    size = parts.spec.observation_size

    def evaluate(state, context: Context, observation, key) -> chex.Array:
        del key
        inputs = context.normalizers.inputs
        states = Normalizer(inputs.mean[:size], inputs.std[:size])
        return jnp.moveaxis(net.apply(state, states.normalize(observation)), -1, 0)

    return Functions(lambda key: net.init(key, jnp.zeros(size)), None, evaluate)


def random_networks(config: ConfigDict, parts: Parts) -> Functions:
    """Networks like the critics, each on its own, never trained (Nikishin et al. 2022)."""
    net = MLP(
        1,
        config.sac.hidden_width,
        config.sac.hidden_depth,
        kernel_init=orthogonal(GAIN),
        head_init=orthogonal(HEAD_GAIN),
    )

    def evaluate(state, context: Context, observation, key) -> chex.Array:
        del context, key
        return jax.vmap(net.apply, in_axes=(0, None))(state, observation)[..., 0]

    def init(key: chex.PRNGKey) -> ObjectiveState:
        return init_ensemble(net, key, config.objective.vep_count, parts.spec.observation_size)

    return Functions(init, None, evaluate)


def past_critics(config: ConfigDict, parts: Parts) -> Functions:
    """The critics at the starts of the last fits, this one included; untrained ones at first."""
    value = make_value(config, parts, discounted=False)  # the backup discounts it

    def init(key: chex.PRNGKey) -> ObjectiveState:
        keys = jax.random.split(key, config.objective.vep_count)
        return jax.vmap(lambda key: some_critics(parts.init_critics(key), config))(keys)

    def begin(state: ObjectiveState, context: Context) -> ObjectiveState:
        newest = critics_in(context, config)
        return jax.tree.map(lambda old, new: jnp.roll(old, 1, axis=0).at[0].set(new), state, newest)

    def evaluate(state, context: Context, observation, key) -> chex.Array:
        return jax.vmap(value, (0, None, None, None))(state, context, observation, key)

    return Functions(init, begin, evaluate)


SETS = {"random": random_functions, "networks": random_networks, "critics": past_critics}
"""Values of `objective.vep_functions`."""
