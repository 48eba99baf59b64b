"""Short model rollouts that a policy can be differentiated through."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models.ensemble import predicted_transition
from models.objectives import Parts
from models.training import ModelState

PolicyAt = Callable[[chex.ArrayTree, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]
"""`(policy, observation [B, O], noise [B, A]) -> (action [B, A], log_prob [B])`."""


class Imagined(NamedTuple):
    """H steps of policy and model from B states."""

    first_action: chex.Array  # [B, A], a_0
    reward: chex.Array  # [H, B], r_0 ... r_{H-1}, expected
    log_prob: chex.Array  # [H + 1, B], log pi(a_t | s_t)
    alive: chex.Array  # [H + 1, B], 1 while no termination happened before t
    last_observation: chex.Array  # [B, O], s_H
    last_action: chex.Array  # [B, A], a_H


class Noise(NamedTuple):
    """Everything random about one such rollout."""

    policy: chex.Array  # [H + 1, B, A], standard normal
    model: chex.Array  # [H, B, O], standard normal, in the order rows are dealt out
    deal: chex.Array  # [H, B], uniform: the order in which rows are dealt out to the members


def draw_noise(key: chex.PRNGKey, horizon: int, rows: int, parts: Parts) -> Noise:
    """Draws the noise of one rollout; consumes `key`.

    The normal numbers are drawn together: each place that draws some costs seconds of compilation.
    """
    normal_key, deal_key = jax.random.split(key)
    actions, states = parts.spec.action_size, parts.spec.observation_size
    normal = jax.random.normal(normal_key, (horizon + 1, rows, actions + states))
    deal = jax.random.uniform(deal_key, (horizon, rows))
    return Noise(normal[..., :actions], normal[:horizon, :, actions:], deal)


def make_imagination(
    config: ConfigDict, parts: Parts, policy_at: PolicyAt
) -> Callable[[chex.ArrayTree, ModelState, chex.Array, Noise], Imagined]:
    """Builds `imagine(policy, elites, observation [B, O], noise) -> Imagined`.

    `elites` is a ModelState whose `params` are those of the elites.

    Next states are sampled, reparameterised, unless `rollout.deterministic`; rewards are expected
    ones. At every step the rows are dealt out anew to the elites (TS1 of Chua et al. 2018), of
    which B has to be a multiple. The model is a constant to the gradient. After a termination
    predictions go on, and `alive` says that they do not count; a state that is not finite ends its
    row, too, which then stays where it was.
    """
    ensemble, spec = parts.ensemble, parts.spec
    num_elites = config.model.num_elites

    def predict(elites: ModelState, observation, action, noise, deal):
        """Expected rewards and sampled states, as regression targets [B, D]."""
        rows = observation.shape[0]
        order = jnp.argsort(deal)
        inputs = reordered(jnp.concatenate([observation, action], axis=-1), order)
        inputs = inputs.reshape(num_elites, rows // num_elites, -1)
        size = spec.observation_size
        prediction = ensemble.predict(
            elites.params, elites.normalizers, inputs[..., :size], inputs[..., size:]
        )
        target = prediction.mean
        if not config.rollout.deterministic:
            padding = ((0, 0), (0, ensemble.target_size - size))
            target = prediction.at(jnp.pad(noise, padding).reshape(target.shape))
        return reordered(target.reshape(rows, -1), jnp.argsort(order))

    def imagine(
        policy: chex.ArrayTree, elites: ModelState, observation: chex.Array, noise: Noise
    ) -> Imagined:
        chex.assert_rank([observation, noise.policy, noise.model, noise.deal], [2, 3, 3, 2])

        def step(carry: tuple, noise: Noise) -> tuple[tuple, tuple]:
            observation, alive = carry
            action, log_prob = policy_at(policy, observation, noise.policy)
            target = predict(elites, observation, action, noise.model, noise.deal)
            outcome = predicted_transition(ensemble, spec, observation, action, target)
            finite = jnp.isfinite(outcome.next_observation).all(axis=-1)
            finite &= jnp.isfinite(outcome.reward)
            following = jnp.where(finite[:, None], outcome.next_observation, observation)
            reward = jnp.where(finite, outcome.reward, 0.0)
            goes_on = jax.lax.stop_gradient(finite & (outcome.terminated == 0))
            return (following, alive * goes_on), (action, reward, log_prob, alive)

        steps = noise._replace(policy=noise.policy[:-1])
        start = observation, jnp.ones(observation.shape[0])
        (last, last_alive), (action, reward, log_prob, alive) = jax.lax.scan(
            step, start, steps, unroll=True
        )
        last_action, last_log_prob = policy_at(policy, last, noise.policy[-1])
        return Imagined(
            first_action=action[0] if len(action) else last_action,
            reward=reward,
            log_prob=jnp.concatenate([log_prob, last_log_prob[None]]),
            alive=jnp.concatenate([alive, last_alive[None]]),
            last_observation=last,
            last_action=last_action,
        )

    return imagine


@jax.custom_vjp
def reordered(x: chex.Array, order: chex.Array) -> chex.Array:
    """Returns the rows x [B, ...] in another order, a permutation int32 [B].

    Its gradient is a gather as well, not the scatter that it would be for any other index.
    """
    return x[order]


def _reordered_forward(x: chex.Array, order: chex.Array) -> tuple[chex.Array, chex.Array]:
    return x[order], order


def _reordered_backward(order: chex.Array, grad: chex.Array) -> tuple[chex.Array, None]:
    return grad[jnp.argsort(order)], None


reordered.defvjp(_reordered_forward, _reordered_backward)
