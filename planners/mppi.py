"""Model-predictive path integral control: the average of sequences, weighted by their returns."""

import chex
import jax
import jax.numpy as jnp

from envs.spec import RewardFn
from planners.base import (
    Evaluate,
    ModelFn,
    Planner,
    PlanOutput,
    SearchSpace,
    return_metrics,
)


def weights(returns: chex.Array, gamma: float) -> chex.Array:
    """Returns w_i proportional to exp(gamma (R_i - max R)), summing to 1; 0 where R_i is -inf.

    Args:
      returns: R [N]; all weights are 0 if none is finite.
      gamma: inverse temperature.
    """
    above = jnp.exp(gamma * (returns - returns.max()))
    above = jnp.where(jnp.isfinite(returns), above, 0.0)
    return above / jnp.maximum(above.sum(), 1.0)  # the best one's is 1, if there is one


def smooth(actions: chex.Array, previous: chex.Array, beta: float) -> chex.Array:
    """Returns x_t = beta u_t + (1 - beta) x_{t-1} for actions u [N, H, A] and x_{-1} = `previous`.

    Nagabandi et al. 2019 (PDDM, arXiv 1909.11652).
    """

    def step(x: chex.Array, u: chex.Array) -> tuple[chex.Array, chex.Array]:
        x = beta * u + (1.0 - beta) * x
        return x, x

    start = jnp.broadcast_to(previous, actions[:, 0].shape)
    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(actions, 0, 1))[1], 0, 1)


def mppi(
    evaluate: Evaluate,
    space: SearchSpace,
    *,
    num_candidates: int,
    num_iterations: int = 5,
    gamma: float = 0.9,
    sigma: float = 1.0,
    beta: float = 0.9,
) -> Planner:
    """Builds the planner with reward-weighted refinement (Nagabandi et al. 2019).

    Starts from the previous plan, shifted by one step. Each iteration adds Gaussian noise to the
    plan, smooths the sum along time, beginning with the action executed last, clips it to the
    bounds and averages the candidates with weights exp(gamma (R - max R)).

    Args:
      evaluate: returns of sequences.
      space: the sequences to choose from.
      num_candidates: N, drawn in every iteration.
      num_iterations: of drawing and averaging.
      gamma: inverse temperature, per unit of return.
      sigma: standard deviation of the noise, in units of half the distance between the bounds.
      beta: weight of the new action in the smoothing, in (0, 1]; 1: none.
    """

    def plan(
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        state: chex.Array,
        observation: chex.Array,
        model_fn: ModelFn,
        reward_fn: RewardFn | None,
    ) -> PlanOutput:
        executed = state[0]
        scale = sigma * (space.high - space.low) / 2

        def iterate(mean: chex.Array, key: chex.PRNGKey):
            noise_key, evaluate_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, (num_candidates, *mean.shape))
            noisy = mean[None] + scale[None, None] * noise
            candidates = space.clip(smooth(noisy, executed[None], beta))
            returns = evaluate(params, evaluate_key, observation, candidates, model_fn, reward_fn)
            weight = weights(returns, gamma)
            average = jnp.einsum("n,nha->ha", weight, candidates)
            valid = weight.any()
            value = jnp.where(weight > 0, weight * returns, 0.0).sum()
            value = jnp.where(valid, value, -jnp.inf)
            return jnp.where(valid, average, mean), (value, return_metrics(returns))

        mean, history = jax.lax.scan(
            iterate, space.shift(state), jax.random.split(key, num_iterations)
        )
        value, metrics = jax.tree.map(lambda x: x[-1], history)
        mean = space.clip(mean)  # rounding
        return PlanOutput(mean[0], mean, mean, value, metrics)

    return Planner(init=lambda: space.middle, plan=plan)
