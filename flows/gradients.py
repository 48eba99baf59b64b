"""Gradients of the flow reward with respect to the dynamics model.

The rollout MDP (Wu et al. 2022, "Plan to Predict"): its state is u = (s, a), its action the model's
decision v = (r, s'), its dynamics the policy, u' = (s', a'), and its reward R(z) that of
z = (u, v). For R = -log(model density / real density) with the density ratio held fixed, its policy
gradient is that of -KL(model || real), because the expectation of the score function vanishes.

The gradient goes into the predicted mean only: the spread is left to the likelihood, so that the
reward cannot be had by inflating or removing noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers, Prediction, predicted_transition
from models.objectives import SamplePolicy
from replay import Transition


class World(NamedTuple):
    """The rollout MDP but for the parameters of its decision maker, the model."""

    ensemble: Ensemble
    normalizers: Normalizers
    spec: EnvSpec
    sample_policy: SamplePolicy
    policy: chex.ArrayTree
    reward: Callable[[Transition], chex.Array]  # R [...] of transitions [...], differentiable
    inputs: Callable[[Transition], chex.Array]  # standardised z [..., D] of transitions [...]


class Starts(NamedTuple):
    """Where the rollouts of M members start, n each, taken from real segments."""

    observation: chex.Array  # [M, n, O]
    action: chex.Array  # [M, n, A], what was done there
    not_truncated: chex.Array  # bool [H, M, n], where the real segment goes on


class RLTerm(NamedTuple):
    """An estimator of the policy gradient of the model, and what it has to learn for that.

    Its functions consume their key.

    Attributes:
      init: `(key) -> state`.
      update: `(state, params, world, starts, key) -> state`, before every model step.
      loss: `(params, state, world, starts, key) -> [M]`, to be descended.
    """

    init: Callable[[chex.PRNGKey], Any]
    update: Callable[..., Any]
    loss: Callable[..., chex.Array]


class Rollout(NamedTuple):
    """Model rollouts, time first: [H, M, n, ...], each member M on its own."""

    transition: Transition
    prediction: Prediction  # spread without gradient
    decision: chex.Array  # [H, M, n, D], the regression target that was drawn
    valid: chex.Array  # bool [H, M, n]


def decide(
    world: World, params: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey
) -> tuple[Transition, Prediction, chex.Array]:
    """One step of policy and model, reparameterised: transitions [M, n], prediction, decision.

    Consumes `key`.
    """
    action_key, model_key = jax.random.split(key)
    action = world.sample_policy(world.policy, observation, action_key)
    return outcome(world, params, observation, action, model_key)


def outcome(
    world: World,
    params: chex.ArrayTree,
    observation: chex.Array,
    action: chex.Array,
    key: chex.PRNGKey,
) -> tuple[Transition, Prediction, chex.Array]:
    """What the model makes of [M, n] states and actions; see `decide`. Consumes `key`."""
    prediction = world.ensemble.predict(params, world.normalizers, observation, action)
    prediction = prediction._replace(log_variance=jax.lax.stop_gradient(prediction.log_variance))
    decision = prediction.sample(key)
    transition = predicted_transition(world.ensemble, world.spec, observation, action, decision)
    return transition, prediction, decision


def roll_out(
    world: World, params: chex.ArrayTree, starts: Starts, key: chex.PRNGKey, *, detach: bool
) -> Rollout:
    """Unrolls every member from its own start states; consumes `key`.

    With `detach`, no gradient flows from a step to those before it.
    """
    start = starts.observation

    def step(carry: tuple[chex.Array, chex.Array], inputs: tuple[chex.Array, chex.PRNGKey]):
        observation, alive = carry
        goes_on, key = inputs
        transition, prediction, decision = decide(world, params, observation, key)
        following = transition.next_observation
        if detach:
            following = jax.lax.stop_gradient(following)
        finite = jnp.isfinite(following).all(axis=-1) & jnp.isfinite(transition.reward)
        alive &= finite
        valid = alive & goes_on
        alive &= transition.terminated == 0
        # a branch that is over stands still, so that it stays finite in the backward pass too
        following = jnp.where(alive[..., None], following, start)
        return (following, alive), (transition, prediction, decision, valid)

    keys = jax.random.split(key, starts.not_truncated.shape[0])
    alive = jnp.ones(start.shape[:-1], bool)
    _, outputs = jax.lax.scan(step, (start, alive), (starts.not_truncated, keys))
    return Rollout(*outputs)


def path_loss(rollout: Rollout, rewards: chex.Array, discount: float) -> chex.Array:
    """Returns minus the discounted reward per step, differentiated through time, per member [M].

    Args:
      rollout: from `roll_out` without `detach`.
      rewards: R [H, M, n] of its transitions.
      discount: of the rollout MDP.
    """
    horizon = rewards.shape[0]
    weight = _discounts(discount, horizon)
    total = jnp.where(rollout.valid, rewards, 0.0).mean(axis=-1)  # [H, M]
    return -(weight * total).sum(axis=0) / horizon


def score_loss(rollout: Rollout, rewards: chex.Array, discount: float) -> chex.Array:
    """Returns a loss [M] whose gradient is minus the score-function policy gradient, per step.

    Rewards are taken relative to their mean over the branches at the same step, which is the
    baseline, and makes an early end worth neither more nor less than going on. Arguments as for
    `path_loss`, of a rollout with `detach`.
    """
    horizon = rewards.shape[0]
    count = jnp.maximum(rollout.valid.sum(axis=-1, keepdims=True), 1)
    baseline = jnp.where(rollout.valid, rewards, 0.0).sum(axis=-1, keepdims=True) / count
    centred = jnp.where(rollout.valid, rewards - baseline, 0.0)

    def accumulate(later: chex.Array, now: chex.Array) -> tuple[chex.Array, chex.Array]:
        total = now + discount * later
        return total, total

    zero = jnp.zeros(rewards.shape[1:])
    _, advantage = jax.lax.scan(accumulate, zero, centred, reverse=True)
    decision = jax.lax.stop_gradient(rollout.decision)
    mean, log_variance = rollout.prediction
    log_prob = -0.5 * (jnp.square(decision - mean) * jnp.exp(-log_variance)).sum(axis=-1)
    log_prob = jnp.where(rollout.valid, log_prob, 0.0)
    weight = _discounts(discount, horizon)
    per_step = (log_prob * jax.lax.stop_gradient(advantage)).mean(axis=-1)
    return -(weight * per_step).sum(axis=0) / horizon


def path(config: ConfigDict, spec: EnvSpec) -> RLTerm:
    """Reparameterised rollouts, differentiated through time: the least variance."""
    del spec

    def loss(params, state, world, starts, key) -> chex.Array:
        del state
        rollout = roll_out(world, params, starts, key, detach=False)
        return path_loss(rollout, world.reward(rollout.transition), config.flow.discount)

    return RLTerm(lambda key: (), lambda state, *_: state, loss)


def score(config: ConfigDict, spec: EnvSpec) -> RLTerm:
    """The score-function estimator: unbiased without a differentiable reward, but noisy."""
    del spec

    def loss(params, state, world, starts, key) -> chex.Array:
        del state
        rollout = roll_out(world, params, starts, key, detach=True)
        rewards = jax.lax.stop_gradient(world.reward(rollout.transition))
        return score_loss(rollout, rewards, config.flow.discount)

    return RLTerm(lambda key: (), lambda state, *_: state, loss)


def _discounts(discount: float, horizon: int) -> chex.Array:
    """Returns discount^t as [H, 1]."""
    return discount ** jnp.arange(horizon, dtype=jnp.float32)[:, None]
