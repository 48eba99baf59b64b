"""The contract of a model objective, and what it may use besides the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
from flax import struct

from models.ensemble import Normalizers
from replay import Transition

ObjectiveState = Any  # a pytree
LossOutput = tuple[chex.Array, tuple[ObjectiveState, dict[str, chex.Array]]]


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
    """

    init: Callable[[chex.PRNGKey], ObjectiveState]
    loss: Callable[[chex.ArrayTree, ObjectiveState, Transition, Context, chex.PRNGKey], LossOutput]
