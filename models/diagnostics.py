"""What a learned model predicts where the truth is known: raw predictions, no statistics.

Shapes: K elites, N rows, H steps, observations [O], regression targets [D].
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from envs.spec import EnvSpec
from models.ensemble import Ensemble, predicted_transition
from models.open_loop import open_loop as replay_actions
from models.open_loop import terminations
from models.training import ModelState
from replay import Transition

Sample = Callable[[chex.Array, chex.PRNGKey], tuple[chex.Array, chex.Array]]
"""`(observation [..., O], key) -> (action [..., A], log_prob [...])`."""

Value = Callable[[chex.Array, chex.PRNGKey], chex.Array]
"""`(observation [B, O], key) -> V [B]`."""


class OneStep(NamedTuple):
    """Every elite's Gaussian for the same real transitions, and what its mean stands for."""

    mean: chex.Array  # [K, N, D], raw units of the targets
    log_variance: chex.Array  # [K, N, D]
    target: chex.Array  # [N, D], the truth
    next_observation: chex.Array  # [K, N, O]
    terminated: chex.Array  # bool [K, N]


class OpenLoop(NamedTuple):
    """What every elite expects after 1, 2, ... H real actions, fed its own mean predictions."""

    next_observation: chex.Array  # [H, K, N, O]
    reward: chex.Array  # [H, K, N]
    terminated: chex.Array  # bool [H, K, N], this step ends the episode; predictions go on


class PolicyRollout(NamedTuple):
    """Policy and model from the same N states, K times each."""

    observation: chex.Array  # [H + 1, K, N, O], the start first
    reward: chex.Array  # [H, K, N]
    log_prob: chex.Array  # [H, K, N], of the action taken
    alive: chex.Array  # bool [H + 1, K, N], not terminated before; only these steps count
    diverged: chex.Array  # bool [K, N], a step that counts is not a finite number


def one_step(ensemble: Ensemble, spec: EnvSpec, model: ModelState, batch: Transition) -> OneStep:
    """Predicts real transitions [N, ...] with every elite."""
    observation = _per_elite(batch.observation, model)
    action = _per_elite(batch.action, model)
    prediction = ensemble.predict(model.elite_params(), model.normalizers, observation, action)
    expected = predicted_transition(ensemble, spec, observation, action, prediction.mean)
    return OneStep(
        prediction.mean,
        prediction.log_variance,
        ensemble.targets(batch),
        expected.next_observation,
        expected.terminated > 0,
    )


def open_loop(
    ensemble: Ensemble,
    spec: EnvSpec,
    model: ModelState,
    observation: chex.Array,
    action: chex.Array,
) -> OpenLoop:
    """Replays real actions [N, H, A] from real states [N, O], each elite on its own."""
    predicted, reward = replay_actions(
        ensemble, model.elite_params(), model.normalizers, observation, action
    )
    return OpenLoop(predicted, reward, terminations(spec, observation, action, predicted))


def policy_rollout(
    ensemble: Ensemble,
    spec: EnvSpec,
    model: ModelState,
    sample: Sample,
    observation: chex.Array,
    key: chex.PRNGKey,
    *,
    steps: int,
    deterministic: bool,
) -> PolicyRollout:
    """Runs the policy in the model from the states [N, O], K times each; consumes `key`.

    The K rollouts from one state are dealt out anew to the K elites at every step, as a training
    rollout draws its elite (TS1 of Chua et al. 2018).

    Args:
      ensemble: functions of the model.
      spec: of the environment; its termination ends a rollout.
      model: the model.
      sample: the policy.
      observation: where to start.
      key: consumed.
      steps: H.
      deterministic: follow the means of the predictions instead of samples.
    """
    elites = model.elite_params()

    def step(carry: tuple[chex.Array, ...], key: chex.PRNGKey):
        observation, alive, diverged = carry
        policy_key, deal_key, model_key = jax.random.split(key, 3)
        action, log_prob = sample(observation, policy_key)
        deal = jnp.argsort(jax.random.uniform(deal_key, alive.shape), axis=0)[..., None]
        prediction = ensemble.predict(
            elites,
            model.normalizers,
            jnp.take_along_axis(observation, deal, axis=0),
            jnp.take_along_axis(action, deal, axis=0),
        )
        target = prediction.mean if deterministic else prediction.sample(model_key)
        target = jnp.take_along_axis(target, jnp.argsort(deal, axis=0), axis=0)
        outcome = predicted_transition(ensemble, spec, observation, action, target)
        finite = jnp.isfinite(outcome.next_observation).all(axis=-1) & jnp.isfinite(outcome.reward)
        output = (observation, outcome.reward, log_prob, alive)
        diverged |= alive & ~finite
        alive &= outcome.terminated == 0
        return (outcome.next_observation, alive, diverged), output

    start = _per_elite(observation, model)
    everywhere = jnp.ones(start.shape[:-1], bool)
    (last, alive, diverged), visited = jax.lax.scan(
        step, (start, everywhere, ~everywhere), jax.random.split(key, steps)
    )
    return PolicyRollout(
        observation=jnp.concatenate([visited[0], last[None]]),
        reward=visited[1],
        log_prob=visited[2],
        alive=jnp.concatenate([visited[3], alive[None]]),
        diverged=diverged,
    )


def values(value: Value, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Returns the learner's values [L, ...] of the states [L, ..., O]; consumes `key`.

    One entry of the leading axis at a time, so that activations stay small.
    """

    def block(inputs: tuple[chex.Array, chex.PRNGKey]) -> chex.Array:
        states, key = inputs
        flat = states.reshape(-1, states.shape[-1])
        return value(flat, key).reshape(states.shape[:-1])

    return jax.lax.map(block, (observation, jax.random.split(key, len(observation))))


def _per_elite(x: chex.Array, model: ModelState) -> chex.Array:
    """Repeats x [N, ...] for every elite: [K, N, ...]."""
    return jnp.broadcast_to(x[None], (model.elites.shape[0], *x.shape))
