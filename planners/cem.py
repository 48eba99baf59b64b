"""The cross-entropy method: a Gaussian over action sequences, refitted to its best samples."""

import chex
import jax
import jax.numpy as jnp

from envs.spec import RewardFn
from errors import UserError
from planners import gaussian as gaussians
from planners.base import (
    Evaluate,
    ModelFn,
    Planner,
    PlanOutput,
    SearchSpace,
    return_metrics,
)
from planners.gaussian import Elites, Gaussian

SAMPLERS = {
    "clipped": gaussians.sample_clipped,
    "truncated": gaussians.sample_truncated,
}


def cem(
    evaluate: Evaluate,
    space: SearchSpace,
    *,
    num_candidates: int,
    num_elites: int,
    num_iterations: int,
    smoothing: float,
    sampler: str,
    warm_start: bool,
    execute_best: bool = False,
) -> Planner:
    """Builds the planner of the cross-entropy method; `configs/planning.py` has its two flavours.

    Each iteration draws candidates, takes the elites among them and moves mean and variance to
    theirs: mean <- smoothing * mean of elites + (1 - smoothing) * mean, the variance likewise.

    Args:
      evaluate: returns of sequences.
      space: the sequences to choose from.
      num_candidates: N, drawn in every iteration.
      num_elites: of the N, the best of which the moments are taken.
      num_iterations: of drawing and refitting.
      smoothing: weight of the elites in (0, 1].
      sampler: `clipped` (Gaussian, moved onto the bounds) or `truncated` (at two standard
        deviations, which are limited to the distance to the bounds).
      warm_start: True: the first iteration draws from a Gaussian around the previous plan, shifted
        by one step, with a quarter of the bounds' distance as standard deviation. False: it draws
        uniformly, and its elites alone make the Gaussian of the second.
      execute_best: execute the best candidate of all iterations instead of the final mean.

    Raises:
      UserError: the sampler does not exist, or there are more elites than candidates.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r}: use one of {', '.join(SAMPLERS)}")
    check_elites(num_elites, num_candidates)
    draw = SAMPLERS[sampler]

    def sample(key: chex.PRNGKey, gaussian: Gaussian, iteration: chex.Array) -> chex.Array:
        if warm_start:
            return draw(key, gaussian, space, num_candidates)
        return jax.lax.cond(
            iteration == 0,
            lambda: space.uniform(key, num_candidates),
            lambda: draw(key, gaussian, space, num_candidates),
        )

    def plan(
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        state: chex.Array,
        observation: chex.Array,
        model_fn: ModelFn,
        reward_fn: RewardFn | None,
    ) -> PlanOutput:
        def iterate(carry: tuple[Gaussian, Elites], inputs: tuple[chex.Array, chex.PRNGKey]):
            (gaussian, best), (iteration, key) = carry, inputs
            sample_key, evaluate_key = jax.random.split(key)
            candidates = sample(sample_key, gaussian, iteration)
            returns = evaluate(params, evaluate_key, observation, candidates, model_fn, reward_fn)
            elites = gaussians.select(candidates, returns, num_elites)
            fresh_start = (iteration == 0) & (not warm_start)
            gaussian = gaussians.refit(gaussian, elites, jnp.where(fresh_start, 1.0, smoothing))
            merged = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), best, elites)
            best = gaussians.select(merged.actions, merged.returns, 1)
            return (gaussian, best), (gaussians.mean_return(elites), return_metrics(returns))

        start = space.shift(state)
        none_yet = Elites(start[None], jnp.full(1, -jnp.inf, jnp.float32))
        (gaussian, best), history = jax.lax.scan(
            iterate,
            (gaussians.broad(space, start), none_yet),
            (jnp.arange(num_iterations), jax.random.split(key, num_iterations)),
        )
        value, metrics = jax.tree.map(lambda x: x[-1], history)
        chosen = gaussian.mean
        if execute_best:
            chosen, value = best.actions[0], best.returns[0]
        chosen = space.clip(chosen)  # rounding
        metrics["planner/std"] = jnp.sqrt(gaussian.variance).mean()
        return PlanOutput(chosen[0], chosen, chosen, value, metrics)

    return Planner(init=lambda: space.middle, plan=plan)


def check_elites(num_elites: int, num_candidates: int) -> None:
    """Raises UserError unless 1 <= `num_elites` <= `num_candidates`."""
    if not 1 <= num_elites <= num_candidates:
        raise UserError(f"num_elites {num_elites}: use 1 to {num_candidates}, the num_candidates")
