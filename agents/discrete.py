"""Critics of discrete actions, and the softmax policy they make, as functions of their parameters.

Actions are one-hot vectors. The policy has no parameters of its own: it is the softmax of the mean
of the critics (Haarnoja et al. 2017, arXiv 1702.08165, eq. 4, where sums over actions are exact).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from envs.spec import EnvSpec
from models.mlp import MLP, init_ensemble, orthogonal
from models.objectives.base import QValues, SamplePolicy

GAIN, HEAD_GAIN = math.sqrt(2.0), 0.01  # of the orthogonal initial weights; released code of OMD


class DiscreteNetworks(NamedTuple):
    """Initialisation and evaluation; C critics, A actions.

    Attributes:
      init_critics: `(key) -> critic_params`, leading axis C.
      q_values: `(critic_params, observation [..., O], action [..., A]) -> Q [C, ...]`.
      value: `(critic_params, observation [..., O]) -> V [...]`, the soft maximum over actions of
        the smallest Q of each.
      sample_and_log_prob: `(critic_params, observation [..., O], key) -> (action [..., A], log_prob
        [...])`.
      sample: the action alone.
      greedy: `(critic_params, observation [..., O]) -> action [..., A]`.
      uniform: `(key) -> action [A]`.
    """

    init_critics: Callable[[chex.PRNGKey], chex.ArrayTree]
    q_values: QValues
    value: Callable[[chex.ArrayTree, chex.Array], chex.Array]
    sample_and_log_prob: Callable[..., tuple[chex.Array, chex.Array]]
    sample: SamplePolicy
    greedy: Callable[[chex.ArrayTree, chex.Array], chex.Array]
    uniform: Callable[[chex.PRNGKey], chex.Array]


def soft_max(q: chex.Array, temperature: float) -> chex.Array:
    """Returns V [...] = alpha log sum_a exp(Q [..., A] / alpha); the maximum for alpha = 0."""
    if temperature == 0:
        return q.max(axis=-1)
    return temperature * jax.nn.logsumexp(q / temperature, axis=-1)


def make_discrete_networks(config: ConfigDict, spec: EnvSpec) -> DiscreteNetworks:
    """Builds the networks of a resolved configuration (its blocks `sac` and `soft_q`)."""
    hyper, temperature = config.sac, config.soft_q.temperature
    net = MLP(
        spec.action_size,
        hyper.hidden_width,
        hyper.hidden_depth,
        layer_norm=hyper.layer_norm,
        kernel_init=orthogonal(GAIN),
        head_init=orthogonal(HEAD_GAIN),
        precision=config.precision,
    )

    def init_critics(key: chex.PRNGKey) -> chex.ArrayTree:
        return init_ensemble(net, key, hyper.num_critics, spec.observation_size)

    def all_q_values(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        """Maps observation [..., O] to Q [C, ..., A]."""
        return jax.vmap(net.apply, in_axes=(0, None))(critics, observation)

    def q_values(
        critics: chex.ArrayTree, observation: chex.Array, action: chex.Array
    ) -> chex.Array:
        return (all_q_values(critics, observation) * action[None]).sum(axis=-1)

    def value(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        # the smallest Q of every action, not the smaller of two soft maxima
        return soft_max(all_q_values(critics, observation).min(axis=0), temperature)

    def log_probs(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        """Maps observation [..., O] to log pi [..., A]."""
        q = all_q_values(critics, observation).mean(axis=0)
        if temperature == 0:
            return jnp.log(one_hot(q.argmax(axis=-1)))
        return jax.nn.log_softmax(q / temperature)

    def one_hot(choice: chex.Array) -> chex.Array:
        return jax.nn.one_hot(choice, spec.action_size)

    def sample_and_log_prob(
        critics: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey
    ) -> tuple[chex.Array, chex.Array]:
        log_pi = log_probs(critics, observation)
        choice = jax.random.categorical(key, log_pi)
        return one_hot(choice), jnp.take_along_axis(log_pi, choice[..., None], axis=-1)[..., 0]

    def sample(critics: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        return sample_and_log_prob(critics, observation, key)[0]

    def greedy(critics: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        return one_hot(log_probs(critics, observation).argmax(axis=-1))

    def uniform(key: chex.PRNGKey) -> chex.Array:
        return one_hot(jax.random.randint(key, (), 0, spec.action_size))

    return DiscreteNetworks(
        init_critics, q_values, value, sample_and_log_prob, sample, greedy, uniform
    )
