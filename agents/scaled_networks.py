"""Policy and critics that see z-scored observations, with values scaled to bounds.

As in double-horizon MBPO (Kubo et al. 2025, arXiv 2512.15439). Statistics and bounds are part of
what the functions are applied to, so that whoever holds a policy or critics can evaluate them; they
are constants to every gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from agents import policies
from agents.value_bounds import Bounds, initial
from envs.spec import EnvSpec
from models import normalizer
from models.ensemble import silu
from models.mlp import MLP, init_ensemble, orthogonal
from models.normalizer import Normalizer
from models.objectives.base import QValues, SamplePolicy

SMALLEST_STD = 1e-5  # of the Gaussian before its tanh


class Policy(NamedTuple):
    """What the policy's functions are applied to."""

    net: chex.ArrayTree  # observation [O] -> mean and raw std [2A]
    observations: Normalizer  # [O]


class Critics(NamedTuple):
    """What the critics' functions are applied to; every leaf has a leading axis C."""

    net: chex.ArrayTree  # networks (observation, action) -> Q in units of the bounds
    observations: Normalizer  # [C, O]
    bounds: Bounds  # [C]


class ScaledNetworks(NamedTuple):
    """Initialisation and evaluation.

    Attributes:
      init_policy: `(key) -> ` the tree `Policy.net`.
      init_critics: `(key) -> ` the tree `Critics.net`.
      init_scaled_critics: `(key) -> Critics`, with statistics that change nothing.
      at: `(Policy, observation [..., O], noise [..., A]) -> (action [..., A], log_prob [...])`, so
        many standard deviations from the mean.
      sample_and_log_prob: `(Policy, observation [..., O], key) -> ` the same, with random noise.
      sample: the action alone.
      greedy: `(Policy, observation [..., O]) -> action [..., A]`.
      q_values: `(Critics, observation [B, O], action [B, A]) -> Q [C, B]`, for any number of
        critics.
    """

    init_policy: Callable[[chex.PRNGKey], chex.ArrayTree]
    init_critics: Callable[[chex.PRNGKey], chex.ArrayTree]
    init_scaled_critics: Callable[[chex.PRNGKey], Critics]
    at: Callable[[Policy, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]
    sample_and_log_prob: Callable[..., tuple[chex.Array, chex.Array]]
    sample: SamplePolicy
    greedy: Callable[[Policy, chex.Array], chex.Array]
    q_values: QValues


def with_scales(net: chex.ArrayTree, observations: Normalizer, bounds: Bounds) -> Critics:
    """Returns critics [C] of networks [C], which share observation statistics [O] and bounds []."""
    count = jax.tree.leaves(net)[0].shape[0]
    scales = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), (observations, bounds)
    )
    return Critics(net, *scales)


def make_scaled_networks(config: ConfigDict, spec: EnvSpec) -> ScaledNetworks:
    """Builds the networks of a resolved configuration (its `sac` block)."""
    hyper = config.sac

    def mlp(outputs: int, **options) -> MLP:
        return MLP(
            outputs,
            hyper.hidden_width,
            hyper.hidden_depth,
            activation=silu,
            kernel_init=orthogonal(1.0),
            precision=config.precision,
            **options,
        )

    policy_net = mlp(2 * spec.action_size)
    critic_net = mlp(1, layer_norm=hyper.layer_norm, head_init=nn.initializers.zeros_init())

    def init_policy(key: chex.PRNGKey) -> chex.ArrayTree:
        return policy_net.init(key, jnp.zeros(spec.observation_size))

    def init_critics(key: chex.PRNGKey) -> chex.ArrayTree:
        inputs = spec.observation_size + spec.action_size
        return init_ensemble(critic_net, key, hyper.num_critics, inputs)

    def gaussian(policy: Policy, observation: chex.Array) -> distrax.MultivariateNormalDiag:
        statistics = jax.lax.stop_gradient(policy.observations)
        outputs = policy_net.apply(policy.net, statistics.normalize(observation))
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return distrax.MultivariateNormalDiag(mean, jax.nn.softplus(raw) + SMALLEST_STD)

    def at(policy: Policy, observation: chex.Array, noise: chex.Array):
        return policies.at(gaussian(policy, observation), noise)

    def sample_and_log_prob(policy: Policy, observation: chex.Array, key: chex.PRNGKey):
        noise = jax.random.normal(key, (*observation.shape[:-1], spec.action_size))
        return at(policy, observation, noise)

    def sample(policy: Policy, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        return sample_and_log_prob(policy, observation, key)[0]

    def greedy(policy: Policy, observation: chex.Array) -> chex.Array:
        return jnp.tanh(gaussian(policy, observation).loc)

    def q_values(critics: Critics, observation: chex.Array, action: chex.Array) -> chex.Array:
        def of_one(critic: Critics) -> chex.Array:
            observations, bounds = jax.lax.stop_gradient((critic.observations, critic.bounds))
            inputs = jnp.concatenate([observations.normalize(observation), action], axis=-1)
            return critic_net.apply(critic.net, inputs)[..., 0] * bounds.scale + bounds.shift

        return jax.vmap(of_one)(critics)

    def init_scaled_critics(key: chex.PRNGKey) -> Critics:
        identity = normalizer.identity(spec.observation_size)
        return with_scales(init_critics(key), identity, initial())

    return ScaledNetworks(
        init_policy,
        init_critics,
        init_scaled_critics,
        at,
        sample_and_log_prob,
        sample,
        greedy,
        q_values,
    )
