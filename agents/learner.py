"""What a one-step agent needs of the algorithm that learns values and a policy from transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex

from agents.base import Metrics
from models.ensemble import Ensemble, Normalizers
from models.objectives.base import Context, Parts

LearnerState = Any  # a pytree with fields critics, target_critics and optimizer


class Learner(NamedTuple):
    """An off-policy learner as pure functions, whatever its actions are.

    Attributes:
      init: `(key) -> learner_state`.
      update: `(learner_state, batch of Transition [B, ...], key) -> (learner_state, metrics)`, one
        gradient step of everything it learns.
      explore: `(key) -> action [A]`, before learning starts.
      behave: `(learner_state, observation [O], key) -> action [A]`, while training.
      context: `(learner_state, normalizers) -> Context`, for the model's objective.
      parts: `(ensemble) -> Parts`, the functions that context belongs to.
      policy: `(learner_state) -> policy_params`, what `act` needs.
      act: `(policy_params, observations [N, O]) -> actions [N, A]`, for evaluation.
    """

    init: Callable[[chex.PRNGKey], LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics]]
    explore: Callable[[chex.PRNGKey], chex.Array]
    behave: Callable[[LearnerState, chex.Array, chex.PRNGKey], chex.Array]
    context: Callable[[LearnerState, Normalizers], Context]
    parts: Callable[[Ensemble], Parts]
    policy: Callable[[LearnerState], Any]
    act: Callable[[Any, chex.Array], chex.Array]
