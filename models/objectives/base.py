"""The contract of a model objective, and what it may use besides the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
from flax import struct

from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers
from replay import Transition

ObjectiveState = Any  # a pytree
QValues = Callable[[chex.ArrayTree, chex.Array, chex.Array], chex.Array]
Value = Callable[[Any, chex.ArrayTree, chex.Array, chex.PRNGKey], chex.Array]
SamplePolicy = Callable[[chex.ArrayTree, chex.Array, chex.PRNGKey], chex.Array]
LossOutput = tuple[chex.Array, tuple[ObjectiveState, dict[str, chex.Array]]]


class Parts(NamedTuple):
    """The functions of the agent that objectives and rollout filters are built from.

    The parameters they are applied to come in a `Context`.
    """

    ensemble: Ensemble
    spec: EnvSpec
    q_values: QValues  # (critics, observation [B, O], action [B, A]) -> [C, B]
    sample_policy: SamplePolicy  # (policy, observation [..., O], key) -> action [..., A]
    sample_and_log_prob: Callable[..., tuple[chex.Array, chex.Array]]  # and its log-density [...]
    greedy_policy: Callable[[chex.ArrayTree, chex.Array], chex.Array]  # without a key
    init_critics: Callable[[chex.PRNGKey], chex.ArrayTree]  # untrained
    value: Value  # (context, critics, observation [B, O], key) -> [B], as the learner backs it up


class Context(struct.PyTreeNode):
    """The rest of the agent as constants: decision-aware objectives take what they need."""

    policy: chex.ArrayTree
    critics: chex.ArrayTree
    target_critics: chex.ArrayTree
    log_temperature: chex.Array  # []
    normalizers: Normalizers


class ModelObjective(NamedTuple):
    """A training loss for the ensemble.

    Attributes:
      init: `(key) -> objective_state`, carried through every fit of a run.
      loss: `(model_params, objective_state, batch, context, key) -> (loss [], (objective_state,
        metrics))`; batch is a Transition [E, B, ...], its own rows for every member. The loss is
        summed over members, so that the gradient of one does not depend on how many there are.
        Weight decay is not its business.
      score: like `loss`, `-> [E, B]`: what every row adds to its member's loss, for early stopping
        and the choice of elites by the objective itself (`model.validation`).
      begin: `(objective_state, context) -> objective_state`, before every fit; None: nothing.
    """

    init: Callable[[chex.PRNGKey], ObjectiveState]
    loss: Callable[[chex.ArrayTree, ObjectiveState, Transition, Context, chex.PRNGKey], LossOutput]
    score: Callable[..., chex.Array]
    begin: Callable[[ObjectiveState, Context], ObjectiveState] | None = None
