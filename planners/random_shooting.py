"""Random shooting: the best of many uniformly random action sequences."""

import chex
import jax

from envs.spec import RewardFn
from planners.base import (
    Evaluate,
    ModelFn,
    Planner,
    PlanOutput,
    SearchSpace,
    return_metrics,
)


def random_shooting(evaluate: Evaluate, space: SearchSpace, *, num_candidates: int) -> Planner:
    """Builds the planner that keeps nothing from plan to plan (Nagabandi et al. 2018, 1708.02596).

    Args:
      evaluate: returns of sequences.
      space: the sequences to draw from.
      num_candidates: N, uniformly random between the bounds.
    """

    def plan(
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        state: tuple[()],
        observation: chex.Array,
        model_fn: ModelFn,
        reward_fn: RewardFn | None,
    ) -> PlanOutput:
        sample_key, evaluate_key = jax.random.split(key)
        candidates = space.uniform(sample_key, num_candidates)
        returns = evaluate(params, evaluate_key, observation, candidates, model_fn, reward_fn)
        best = returns.argmax()
        chosen = candidates[best]
        return PlanOutput(chosen[0], state, chosen, returns[best], return_metrics(returns))

    return Planner(init=tuple, plan=plan)
