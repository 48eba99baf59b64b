"""Policy and critics of an actor-critic, as functions of their parameters."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from agents import policies
from envs.spec import EnvSpec
from models.mlp import MLP, init_ensemble
from models.objectives.base import QValues, SamplePolicy


class Networks(NamedTuple):
    """Initialisation and evaluation.

    Attributes:
      init_policy: `(key) -> policy_params`.
      init_critics: `(key) -> critic_params`, leading axis C.
      sample_and_log_prob: `(policy_params, observation [..., O], key) -> (action [..., A],
        log_prob [...])`.
      sample: the action alone.
      greedy: `(policy_params, observation [..., O]) -> action [..., A]`.
      q_values: `(critic_params, observation [B, O], action [B, A]) -> Q [C, B]`, for any number
        of critics.
    """

    init_policy: Callable[[chex.PRNGKey], chex.ArrayTree]
    init_critics: Callable[[chex.PRNGKey], chex.ArrayTree]
    sample_and_log_prob: Callable[..., tuple[chex.Array, chex.Array]]
    sample: SamplePolicy
    greedy: Callable[[chex.ArrayTree, chex.Array], chex.Array]
    q_values: QValues


def make_networks(config: ConfigDict, spec: EnvSpec) -> Networks:
    """Builds the networks of a resolved configuration (its `sac` block)."""
    hyper = config.sac
    size = {
        "width": hyper.hidden_width,
        "depth": hyper.hidden_depth,
        "precision": config.precision,
    }
    policy_net = MLP(2 * spec.action_size, **size)
    critic_net = MLP(1, **size, layer_norm=hyper.layer_norm)

    def init_policy(key: chex.PRNGKey) -> chex.ArrayTree:
        return policy_net.init(key, jnp.zeros(spec.observation_size))

    def init_critics(key: chex.PRNGKey) -> chex.ArrayTree:
        inputs = spec.observation_size + spec.action_size
        return init_ensemble(critic_net, key, hyper.num_critics, inputs)

    def sample_and_log_prob(
        policy: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey
    ) -> tuple[chex.Array, chex.Array]:
        return policies.sample_and_log_prob(policy_net.apply(policy, observation), key)

    def sample(policy: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        return sample_and_log_prob(policy, observation, key)[0]

    def greedy(policy: chex.ArrayTree, observation: chex.Array) -> chex.Array:
        return policies.greedy(policy_net.apply(policy, observation))

    def q_values(
        critics: chex.ArrayTree, observation: chex.Array, action: chex.Array
    ) -> chex.Array:
        inputs = jnp.concatenate([observation, action], axis=-1)
        num_critics = jax.tree.leaves(critics)[0].shape[0]
        inputs = jnp.broadcast_to(inputs, (num_critics, *inputs.shape))
        return jax.vmap(critic_net.apply)(critics, inputs)[..., 0]

    return Networks(init_policy, init_critics, sample_and_log_prob, sample, greedy, q_values)
