"""The improved cross-entropy method (Pinneri et al. 2020, arXiv 2008.06389)."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs.spec import RewardFn
from planners import gaussian as gaussians
from planners.base import (
    Evaluate,
    ModelFn,
    Planner,
    PlanOutput,
    SearchSpace,
    return_metrics,
)
from planners.cem import check_elites
from planners.gaussian import Elites
from planners.noise import colored


class IcemState(NamedTuple):
    """What the next plan of an episode starts from."""

    mean: chex.Array  # [H, A], of the last plan's Gaussian
    kept: Elites  # the K best of the last plan's elites; -inf returns at the start of an episode


def population(num_candidates: int, num_elites: int, decay: float, iteration: int) -> int:
    """Returns how many candidates `iteration`, from 0, draws: N decay^-i, at least two elite sets.

    Kept elites and the mean come on top.
    """
    return max(math.ceil(num_candidates * decay**-iteration), 2 * num_elites)


def one_step_later(kept: Elites, last: chex.Array) -> Elites:
    """Returns the elites shifted by one step, with the actions `last` [K, 1, A] at the end."""
    return kept._replace(actions=jnp.concatenate([kept.actions[:, 1:], last], axis=1))


def with_kept(candidates: chex.Array, kept: Elites) -> chex.Array:
    """Returns candidates [N, H, A] whose first K are the valid ones of the K kept elites."""
    own = candidates[: kept.returns.size]
    valid = jnp.isfinite(kept.returns)[:, None, None]
    return candidates.at[: kept.returns.size].set(jnp.where(valid, kept.actions, own))


def icem(
    evaluate: Evaluate,
    space: SearchSpace,
    *,
    num_candidates: int,
    num_elites: int,
    num_iterations: int = 5,
    smoothing: float = 0.9,
    noise_beta: float = 2.0,
    decay: float = 1.25,
    kept_fraction: float = 0.3,
    execute_best: bool = True,
) -> Planner:
    """Builds the planner of algorithm 1 in the paper.

    Candidates are Gaussian with noise that is coloured along time, clipped to the bounds. The first
    iteration adds the best elites of the previous plan, shifted by one step, every later one those
    of the iteration before, the last one also the mean. Mean and variance follow the elites as in
    `cem`, from the previous mean, shifted, and a quarter of the bounds' distance.

    Args:
      evaluate: returns of sequences.
      space: the sequences to choose from.
      num_candidates: N, drawn in the first iteration; later fewer (`population`).
      num_elites: of which the moments are taken.
      num_iterations: of drawing and refitting.
      smoothing: weight of the elites in (0, 1]; the paper's momentum alpha is 1 - smoothing.
      noise_beta: exponent of the noise's power spectrum.
      decay: the paper's gamma, at least 1.
      kept_fraction: of the elites that are added to the next iteration or plan.
      execute_best: execute the best candidate of the last iteration instead of the final mean.

    Raises:
      UserError: there are more elites than candidates.
    """
    check_elites(num_elites, num_candidates)
    num_kept = math.ceil(kept_fraction * num_elites)

    sizes = [
        population(num_candidates, num_elites, decay, iteration) + num_kept
        for iteration in range(num_iterations)
    ]
    sizes[-1] += 1  # the mean

    def plan(
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        state: IcemState,
        observation: chex.Array,
        model_fn: ModelFn,
        reward_fn: RewardFn | None,
    ) -> PlanOutput:
        noise_key, *evaluate_keys = jax.random.split(key, num_iterations + 1)
        noise = colored(noise_key, (sum(sizes), *state.mean.shape), noise_beta)
        noises = jnp.split(noise, np.cumsum(sizes)[:-1])
        gaussian = gaussians.broad(space, space.shift(state.mean))
        kept = state.kept
        # unrolled, because every iteration has a population of its own
        for iteration, (noise, evaluate_key) in enumerate(zip(noises, evaluate_keys)):
            candidates = gaussians.scaled(noise, gaussian, space)
            if iteration == 0:
                kept = one_step_later(kept, candidates[:num_kept, -1:])
            candidates = with_kept(candidates, kept)
            if iteration == num_iterations - 1:
                candidates = candidates.at[-1].set(gaussian.mean)
            returns = evaluate(params, evaluate_key, observation, candidates, model_fn, reward_fn)
            elites = gaussians.select(candidates, returns, num_elites)
            gaussian = gaussians.refit(gaussian, elites, smoothing)
            kept = jax.tree.map(lambda x: x[:num_kept], elites)
        chosen, value = gaussian.mean, gaussians.mean_return(elites)
        if execute_best:
            chosen, value = elites.actions[0], elites.returns[0]
        chosen = space.clip(chosen)  # rounding
        metrics = return_metrics(returns) | {"planner/std": jnp.sqrt(gaussian.variance).mean()}
        return PlanOutput(chosen[0], IcemState(gaussian.mean, kept), chosen, value, metrics)

    def init() -> IcemState:
        actions = jnp.broadcast_to(space.middle, (num_kept, *space.middle.shape))
        return IcemState(space.middle, Elites(actions, jnp.full(num_kept, -jnp.inf, jnp.float32)))

    return Planner(init=init, plan=plan)
