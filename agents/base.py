"""The contract between an algorithm and the driver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from models.ensemble import Ensemble
from models.training import ModelState
from replay import Transition, buffer

AgentState = Any  # one frozen pytree: everything the algorithm carries, its random key included
Metrics = dict[str, chex.Array]  # scalars, named `part/quantity`


class Stage(NamedTuple):
    """One part of a refresh, a compiled program of its own so that its time can be told apart.

    Attributes:
      name: under which its time is reported, `time/<name>`.
      run: `(state) -> (state, metrics)`.
    """

    name: str
    run: Callable[[AgentState], tuple[AgentState, Metrics]]


class Internals(NamedTuple):
    """What diagnostics look at inside an agent's state. None: the algorithm has no such part.

    Attributes:
      sample: `(state, observation [..., O], key) -> (action [..., A], log_prob [...])`, the policy
        as it is while training.
      value: `(state, observation [B, O], key) -> V [B]`, the learner's own estimate of the
        discounted return from there on, entropy bonus included, at one sampled action a state.
      temperature: `(state) -> []`, the coefficient alpha of that bonus.
      model: `(state) -> ModelState` of the learned dynamics.
      ensemble: the functions its parameters belong to.
    """

    sample: Callable[..., tuple[chex.Array, chex.Array]] | None = None
    value: Callable[..., chex.Array] | None = None
    temperature: Callable[[AgentState], chex.Array] | None = None
    model: Callable[[AgentState], ModelState] | None = None
    ensemble: Ensemble | None = None


def observe(state: AgentState, transition: Transition) -> AgentState:
    """Stores a transition in a state that has the fields `replay` and `env_steps`."""
    replay = buffer.add(state.replay, transition)
    return state.replace(replay=replay, env_steps=state.env_steps + 1)


def periodically(
    period: int, step: chex.Array, update: Callable[[Any], tuple[Any, Metrics]], state: Any
) -> tuple[Any, Metrics]:
    """Applies an update in every `period`-th step, and nothing in the others.

    Args:
      period: from 1.
      step: int32 [], counted from 1.
      update: `(state) -> (state, metrics)`.
      state: any tree.

    Returns:
      The state, and metrics of which the mean over whole periods is that of the updates. Where
      seeds are vectorised, the update is computed in every step and dropped in the others.
    """
    if period == 1:
        return update(state)

    def nothing(state: Any) -> tuple[Any, Metrics]:
        _, metrics = jax.eval_shape(update, state)
        return state, jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), metrics)

    state, metrics = jax.lax.cond(step % period == 0, update, nothing, state)
    return state, jax.tree.map(lambda value: period * value, metrics)


def no_memory(policy: Any, num_episodes: int) -> tuple[()]:
    """The `begin` of policies that look at nothing but the current observation."""
    del policy, num_episodes
    return ()


def reactive(
    act: Callable[[Any, chex.Array], chex.Array],
) -> Callable[[Any, Any, chex.Array], tuple[chex.Array, Any]]:
    """Returns `(policy_params, observations) -> actions` as an `act` that leaves its memory."""
    return lambda policy, memory, observations: (act(policy, observations), memory)


class Agent(NamedTuple):
    """One algorithm for ONE seed, as pure functions; `experiment.seeds.lift` runs it for several.

    Attributes:
      init: `(key) -> state`. The state keeps a key of its own, so no other function is given one.
      explore: `(state, observation [O]) -> (state, action [A])`, before learning starts.
      observe: `(state, transition) -> state`, stores a transition without learning.
      step: `(state, transition, next_observation [O]) -> (state, action [A], metrics)`. One
        compiled program per environment step: stores the transition, does the gradient updates, and
        chooses the action for `next_observation`.
      refresh: stages run in order every `refresh_every` steps of learning, before `step`: they fit
        the model and generate rollouts. Empty for model-free agents.
      policy: `(state) -> policy_params`, what `begin` and `act` need; a selection of leaves, which
        does the same to a state with a seed axis.
      act: `(policy_params, memory, observations [N, O]) -> (actions [N, A], memory)`, for
        evaluation: what to do in N episodes at once, greedily, or as published where that differs.
        The observation of an episode that is over may be NaN; its action does not count.
      refresh_every: environment steps between refreshes; 0 without `refresh`.
      begin: `(policy_params, N) -> memory` at the start of N episodes, with a leading axis N.
      internals: for diagnostics.
    """

    init: Callable[[chex.PRNGKey], AgentState]
    explore: Callable[[AgentState, chex.Array], tuple[AgentState, chex.Array]]
    observe: Callable[[AgentState, Any], AgentState]
    step: Callable[[AgentState, Any, chex.Array], tuple[AgentState, chex.Array, Metrics]]
    refresh: tuple[Stage, ...]
    policy: Callable[[AgentState], Any]
    act: Callable[[Any, Any, chex.Array], tuple[chex.Array, Any]]
    refresh_every: int
    begin: Callable[[Any, int], Any] = no_memory
    internals: Internals = Internals()
