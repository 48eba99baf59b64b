"""A soft actor-critic whose values are short model rollouts, and its policy gradient through them.

The update of double-horizon MBPO (Kubo et al. 2025, arXiv 2512.15439). One forward rollout of H
steps serves the critics' target, the bounds of the values and the policy gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from agents import value_bounds
from agents.base import Metrics
from agents.sac import adam, descend
from agents.scaled_networks import Policy, ScaledNetworks, make_scaled_networks, with_scales
from agents.value_bounds import Bounds
from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers
from models.imagination import Imagined, draw_noise, make_imagination
from models.normalizer import Normalizer
from models.objectives import Context, Parts
from models.training import ModelState


class LearnerState(struct.PyTreeNode):
    """What an update changes."""

    policy: chex.ArrayTree  # the tree `Policy.net`
    critics: chex.ArrayTree  # the tree `Critics.net`, leading axis C
    target_critics: chex.ArrayTree  # Polyak average of the critics
    log_temperature: chex.Array  # [], log of the entropy coefficient alpha
    optimizer: optax.OptState  # of (policy, critics, log_temperature), in this order
    bounds: Bounds  # of the values
    updates: chex.Array  # int32 [], of the critics


class Learner(NamedTuple):
    """The functions of one learner.

    Attributes:
      init: `(key) -> LearnerState`.
      update: `(state, elites, observations, start [B, O], key) -> (state, metrics)`, one gradient
        step of everything; `elites` is a ModelState whose `params` are those of the elites,
        `observations` are the statistics that policy and critics see.
      update_critics: the same of the critics alone.
      reset_optimizer: `(state) -> state`, as if no gradient step had been done before.
      context: `(state, observations, normalizers) -> Context`, for objectives and filters.
      parts: the functions that context belongs to.
    """

    init: Callable[[chex.PRNGKey], LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics]]
    update_critics: Callable[..., tuple[LearnerState, Metrics]]
    reset_optimizer: Callable[[LearnerState], LearnerState]
    context: Callable[[LearnerState, Normalizer, Normalizers], Context]
    parts: Parts


def soft_return(
    imagined: Imagined, last_value: chex.Array, temperature: chex.Array, discount: float
) -> chex.Array:
    """Returns what training rollouts are worth [B], the entropy of every action included.

    sum_{t<H} gamma^t m_t (r_t - alpha l_t) + gamma^H m_H (last_value - alpha l_H), where l_t is a
    log-probability and m_t is 1 until the episode has terminated: the reward of the step that
    terminates counts, nothing after it.

    Args:
      imagined: rollouts of H steps.
      last_value: [B], Q(s_H, a_H).
      temperature: [], alpha.
      discount: gamma.
    """
    chex.assert_rank([last_value, temperature], [1, 0])
    gained = jnp.concatenate([imagined.reward, last_value[None]])
    weight = discount ** jnp.arange(len(gained))[:, None] * imagined.alive
    return (weight * (gained - temperature * imagined.log_prob)).sum(axis=0)


def critic_target(
    imagined: Imagined, last_value: chex.Array, temperature: chex.Array, discount: float
) -> chex.Array:
    """Returns the target [B] of Q(s_0, a_0): the soft return without the entropy of a_0.

    That belongs to the policy's objective. Arguments are those of `soft_return`.
    """
    soft = soft_return(imagined, last_value, temperature, discount)
    return soft + temperature * imagined.log_prob[0]


def pessimistic(q: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Returns the smaller [B] of the values q [C, B] of two random critics; consumes `key`."""
    chex.assert_rank(q, 2)
    return jax.random.permutation(key, q)[:2].min(axis=0)


def make_learner(config: ConfigDict, spec: EnvSpec, ensemble: Ensemble) -> Learner:
    """Builds the learner of a resolved configuration (its blocks `dhmbpo` and `sac`)."""
    hyper, discount, horizon = config.sac, config.discount, config.dhmbpo.horizon
    net = make_scaled_networks(config, spec)
    parts = parts_of(net, ensemble, spec)
    imagine = make_imagination(config, parts, net.at)
    policy_optimizer = adam(hyper.policy_learning_rate, hyper.max_grad_norm)
    critic_optimizer = adam(hyper.critic_learning_rate, hyper.max_grad_norm)
    temperature_optimizer = adam(hyper.temperature_learning_rate, 0.0)

    def reset_optimizer(state: LearnerState) -> LearnerState:
        optimizer = (
            policy_optimizer.init(state.policy),
            critic_optimizer.init(state.critics),
            temperature_optimizer.init(state.log_temperature),
        )
        return state.replace(optimizer=optimizer)

    def init(key: chex.PRNGKey) -> LearnerState:
        policy_key, critic_key = jax.random.split(key)
        critics = net.init_critics(critic_key)
        state = LearnerState(
            policy=net.init_policy(policy_key),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            log_temperature=jnp.log(jnp.float32(hyper.initial_temperature)),
            optimizer=(),
            bounds=value_bounds.initial(),
            updates=jnp.zeros((), jnp.int32),
        )
        return reset_optimizer(state)

    def step_critics(
        state: LearnerState,
        imagined: Imagined,
        observations: Normalizer,
        start: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[LearnerState, Metrics]:
        """One step towards the targets of the rollouts; bounds and target critics follow."""
        temperature = jnp.exp(state.log_temperature)
        soft_reward = imagined.reward - temperature * imagined.log_prob[:horizon]
        alive = imagined.alive[:horizon]
        bounds = value_bounds.follow(state.bounds, soft_reward, alive, discount, state.updates == 0)

        def q_values(critics: chex.ArrayTree, observation: chex.Array, action: chex.Array):
            return net.q_values(with_scales(critics, observations, bounds), observation, action)

        last_q = q_values(state.target_critics, imagined.last_observation, imagined.last_action)
        last_value = bounds.clip(pessimistic(last_q, key))
        target = critic_target(imagined, last_value, temperature, discount)

        def loss(critics: chex.ArrayTree) -> tuple[chex.Array, chex.Array]:
            q = q_values(critics, start, imagined.first_action)
            return jnp.square(q - target[None]).mean(axis=1).sum(), q.mean()

        (q_loss, q_mean), grads = jax.value_and_grad(loss, has_aux=True)(state.critics)
        policy_opt, critic_opt, temperature_opt = state.optimizer
        critics, critic_opt = descend(critic_optimizer, grads, critic_opt, state.critics)
        targets = optax.incremental_update(critics, state.target_critics, hyper.target_update_rate)
        state = state.replace(
            critics=critics,
            target_critics=targets,
            optimizer=(policy_opt, critic_opt, temperature_opt),
            bounds=bounds,
            updates=state.updates + 1,
        )
        return state, {
            "critic/loss": q_loss,
            "critic/q": q_mean,
            "critic/target": target.mean(),
            "critic/low": bounds.low,
            "critic/high": bounds.high,
            "critic/clipped": (last_value != pessimistic(last_q, key)).mean(),
            "rollout/alive": imagined.alive[-1].mean(),
        }

    def update_critics(
        state: LearnerState,
        elites: ModelState,
        observations: Normalizer,
        start: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[LearnerState, Metrics]:
        noise_key, pair_key = jax.random.split(key)
        noise = draw_noise(noise_key, horizon, len(start), parts)
        imagined = imagine(Policy(state.policy, observations), elites, start, noise)
        return step_critics(state, imagined, observations, start, pair_key)

    def update(
        state: LearnerState,
        elites: ModelState,
        observations: Normalizer,
        start: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[LearnerState, Metrics]:
        noise_key, pair_key = jax.random.split(key)
        noise = draw_noise(noise_key, horizon, len(start), parts)
        imagined, pull_back = jax.vjp(
            lambda policy: imagine(Policy(policy, observations), elites, start, noise),
            state.policy,
        )
        state, metrics = step_critics(state, imagined, observations, start, pair_key)
        critics = with_scales(state.critics, observations, state.bounds)

        def loss(imagined: Imagined) -> chex.Array:
            q = net.q_values(critics, imagined.last_observation, imagined.last_action)
            temperature = jnp.exp(state.log_temperature)
            return -soft_return(imagined, q.mean(axis=0), temperature, discount).mean()

        policy_loss, cotangents = jax.value_and_grad(loss)(imagined)
        log_prob = imagined.log_prob[0].mean()
        state = step_policy(state, pull_back(cotangents)[0], log_prob)
        metrics |= {"policy/loss": policy_loss, "policy/entropy": -log_prob}
        return state, metrics | {"policy/temperature": jnp.exp(state.log_temperature)}

    def step_policy(
        state: LearnerState, grads: chex.ArrayTree, log_prob: chex.Array
    ) -> LearnerState:
        """One step of the policy, and of the temperature towards the target entropy."""
        policy_opt, critic_opt, temperature_opt = state.optimizer
        policy, policy_opt = descend(policy_optimizer, grads, policy_opt, state.policy)
        log_temperature = state.log_temperature
        if hyper.learn_temperature:
            # d/d(log alpha) of -log(alpha) (l_0 + target entropy), as in SAC
            grad = -(log_prob + hyper.target_entropy)
            log_temperature, temperature_opt = descend(
                temperature_optimizer, grad, temperature_opt, log_temperature
            )
        return state.replace(
            policy=policy,
            log_temperature=log_temperature,
            optimizer=(policy_opt, critic_opt, temperature_opt),
        )

    def context(state: LearnerState, observations: Normalizer, normalizers: Normalizers) -> Context:
        return Context(
            policy=Policy(state.policy, observations),
            critics=with_scales(state.critics, observations, state.bounds),
            target_critics=with_scales(state.target_critics, observations, state.bounds),
            log_temperature=state.log_temperature,
            normalizers=normalizers,
        )

    return Learner(init, update, update_critics, reset_optimizer, context, parts)


def parts_of(net: ScaledNetworks, ensemble: Ensemble, spec: EnvSpec) -> Parts:
    """Returns what model objectives and rollout filters are built from."""

    def value(context: Context, critics, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        policy_key, pair_key = jax.random.split(key)
        action, log_prob = jax.lax.stop_gradient(
            net.sample_and_log_prob(context.policy, observation, policy_key)
        )
        q = pessimistic(net.q_values(critics, observation, action), pair_key)
        return q - jnp.exp(context.log_temperature) * log_prob

    return Parts(
        ensemble=ensemble,
        spec=spec,
        q_values=net.q_values,
        sample_policy=net.sample,
        sample_and_log_prob=net.sample_and_log_prob,
        greedy_policy=net.greedy,
        init_critics=net.init_scaled_critics,
        value=value,
    )
