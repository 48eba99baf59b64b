"""The contract of a planner: model-predictive control with a learned model.

A planner looks for the sequence of H actions with the highest predicted return, executes the first
one and plans again. Its functions are pure: `jax.vmap` over `plan` plans for several environments,
or for several seeds with models of their own, at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs.spec import RewardFn

ModelFn = Callable[
    [chex.ArrayTree, chex.PRNGKey, chex.Array, chex.Array], tuple[chex.Array, chex.Array]
]
"""`(params, key, observation [M, B, O], action [M, B, A]) -> next observation [M, B, O] and reward
[M, B]`: every one of M members predicts its own rows, by a sample or its mean. Consumes the key."""

Evaluate = Callable[
    [chex.ArrayTree, chex.PRNGKey, chex.Array, chex.Array, ModelFn, RewardFn | None], chex.Array
]
"""`(params, key, observation [O], actions [N, H, A], model_fn, reward_fn) -> returns [N]`, finite
or -inf. The reward is the model's own where `reward_fn` is None. Consumes the key."""


class PlanOutput(NamedTuple):
    """What a planner decided for one observation."""

    action: chex.Array  # [A], to be executed: the first of the plan
    state: Any  # for the next step of the episode
    plan: chex.Array  # [H, A]
    # [], estimated return of the plan: its own, or, of a plan that is a mean of sequences, the mean
    # of theirs; -inf if no candidate had a finite one
    value: chex.Array
    metrics: dict[str, chex.Array]  # [] each


class Planner(NamedTuple):
    """The functions of a planner.

    Attributes:
      init: `() -> state` at the start of an episode.
      plan: `(params, key, state, observation [O], model_fn, reward_fn) -> PlanOutput`. `reward_fn`
        is applied to predicted states; None: the model predicts rewards. Consumes the key.
    """

    init: Callable[[], Any]
    plan: Callable[
        [chex.ArrayTree, chex.PRNGKey, Any, chex.Array, ModelFn, RewardFn | None], PlanOutput
    ]


class SearchSpace(NamedTuple):
    """The action sequences to choose from: all H actions between the bounds."""

    horizon: int  # H
    low: np.ndarray  # float32 [A]
    high: np.ndarray  # float32 [A]

    @property
    def middle(self) -> chex.Array:
        """The sequence [H, A] in the middle between the bounds."""
        return jnp.tile((self.low + self.high) / 2, (self.horizon, 1))

    def uniform(self, key: chex.PRNGKey, num: int) -> chex.Array:
        """Draws `num` sequences [num, H, A]. Consumes `key`."""
        shape = (num, self.horizon, self.low.size)
        unit = jax.random.uniform(key, shape)
        low, high = (jnp.broadcast_to(bound, shape) for bound in (self.low, self.high))
        return low + unit * (high - low)

    def clip(self, actions: chex.Array) -> chex.Array:
        """Returns `actions` [..., H, A], moved onto the bounds where they are outside."""
        low, high = (jnp.broadcast_to(bound, actions.shape) for bound in (self.low, self.high))
        return jnp.clip(actions, low, high)

    def shift(self, plan: chex.Array) -> chex.Array:
        """Returns `plan` [H, A] one step later; the new last action is in the middle."""
        return jnp.concatenate([plan[1:], self.middle[-1:]])


def search_space(
    *, horizon: int, action_size: int, low: Any = -1.0, high: Any = 1.0
) -> SearchSpace:
    """Returns the sequences of `horizon` actions between `low` and `high`, numbers or [A]."""
    shape = (action_size,)
    low, high = (np.broadcast_to(np.float32(bound), shape) for bound in (low, high))
    return SearchSpace(horizon, low, high)


def return_metrics(returns: chex.Array) -> dict[str, chex.Array]:
    """Returns what is logged about the candidates' `returns` [N]."""
    return {
        "planner/best_return": returns.max(),
        "planner/valid_fraction": jnp.isfinite(returns).mean(),
    }
