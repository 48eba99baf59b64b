"""The value function that value-aware objectives ask, as `config.objective` describes it."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.objectives.base import Context, Parts

Value = Callable[[chex.ArrayTree, Context, chex.Array, chex.PRNGKey], chex.Array]
"""`(critics, context, observation [..., O], key) -> V [...]`."""


class Critic(NamedTuple):
    """Which critics make a value, and how."""

    field: str  # of `Context`
    first: int | None  # how many of them; None: all
    reduce: Callable[[chex.Array], chex.Array]  # Q [C, B] -> [B]


CRITICS: dict[str, Critic] = {
    "first": Critic("critics", 1, lambda q: q[0]),
    "min": Critic("critics", None, lambda q: q.min(axis=0)),
    "mean": Critic("critics", None, lambda q: q.mean(axis=0)),
    "target": Critic("target_critics", None, lambda q: q.min(axis=0)),
}
ACTIONS = ("sample", "mean")


def critics_in(context: Context, config: ConfigDict) -> chex.ArrayTree:
    """Returns the parameters [C, ...] that the configured value is made of."""
    critic = CRITICS[config.objective.critic]
    return some_critics(getattr(context, critic.field), config)


def some_critics(critics: chex.ArrayTree, config: ConfigDict) -> chex.ArrayTree:
    """Returns those of all critics that the configured value needs."""
    first = CRITICS[config.objective.critic].first
    return jax.tree.map(lambda leaf: leaf[:first], critics)


def make_value(config: ConfigDict, parts: Parts, *, discounted: bool) -> Value:
    """Builds V(s) = Q(s, a) with the policy's action a, times the discount if `discounted`.

    The gradient reaches the state through Q alone: the action, the entropy and all parameters are
    constants. (By the envelope theorem that is the whole gradient where the policy is optimal.)
    """
    hyper = config.objective
    reduce = CRITICS[hyper.critic].reduce

    def act(context: Context, observation: chex.Array, key: chex.PRNGKey):
        if hyper.action == "mean":
            action = parts.greedy_policy(context.policy, observation)
            return action, jnp.zeros(observation.shape[:-1])
        return parts.sample_and_log_prob(context.policy, observation, key)

    def value(
        critics: chex.ArrayTree, context: Context, observation: chex.Array, key: chex.PRNGKey
    ) -> chex.Array:
        rows = observation.reshape(-1, observation.shape[-1])
        action, log_prob = jax.lax.stop_gradient(act(context, rows, key))
        v = reduce(parts.q_values(critics, rows, action))
        if hyper.include_entropy:
            v = v - jnp.exp(context.log_temperature) * log_prob
        if discounted:
            v = config.discount * v
        return v.reshape(observation.shape[:-1])

    return value
