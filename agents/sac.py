"""Soft actor-critic (Haarnoja et al. 2018b, arXiv 1812.05905).

The update, used by every agent here that learns a continuous policy, and the model-free agent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from agents.base import Agent, Internals, Metrics, observe, periodically, reactive
from agents.learner import Learner
from agents.networks import make_networks
from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers
from models.objectives.base import Context, Parts, QValues, SamplePolicy, Value
from replay import ReplayState, Transition, buffer, example_transition


class SACState(struct.PyTreeNode):
    """Everything the update carries."""

    policy: chex.ArrayTree  # network: observation [O] -> mean and log std [2A]
    critics: chex.ArrayTree  # leading axis C: networks (observation, action) -> Q
    target_critics: chex.ArrayTree  # Polyak average of the critics
    log_temperature: chex.Array  # [], log of the entropy coefficient alpha
    optimizer: optax.OptState  # of (policy, critics, log_temperature), in this order
    updates: chex.Array  # int32 [], gradient updates done


WeightedBatch = tuple[Transition, chex.Numeric]
"""Transitions [B, ...] and their weights in the critic loss, [B] or 1 for all."""


class SAC(NamedTuple):
    """The functions of one soft actor-critic.

    Attributes:
      init: `(key) -> SACState`.
      init_critics: `(key) -> critic_params`, untrained.
      update: `(state, batch of Transition [B, ...], key, weight) -> (state, metrics)`; the weight,
        [B] or 1 for all, multiplies the critic loss of each transition.
      update_critics: `(state, batch, key, weight, count) -> (state, metrics)`, policy evaluation
        alone; the target critics follow where `count`, from 1, is a multiple of their period.
      sample_and_log_prob: `(policy_params, observation [..., O], key) -> (action [..., A],
        log_prob [...])`.
      sample: the action alone.
      greedy: `(policy_params, observation [..., O]) -> action [..., A]`.
      q_values: `(critic_params, observation [B, O], action [B, A]) -> Q [C, B]`.
      value: `(state, critic_params, observation [B, O], key) -> V [B]`: minimum over the critics
        plus entropy bonus, at one sampled action a row. `state` is whatever has its `policy` and
        `log_temperature`. The gradient reaches the observation through Q alone.
    """

    init: Callable[[chex.PRNGKey], SACState]
    init_critics: Callable[[chex.PRNGKey], chex.ArrayTree]
    update: Callable[..., tuple[SACState, Metrics]]
    update_critics: Callable[..., tuple[SACState, Metrics]]
    sample_and_log_prob: Callable[..., tuple[chex.Array, chex.Array]]
    sample: SamplePolicy
    greedy: Callable[[chex.ArrayTree, chex.Array], chex.Array]
    q_values: QValues
    value: Value


def make_sac(config: ConfigDict, spec: EnvSpec) -> SAC:
    """Builds the update from a resolved configuration (its `sac` block and `discount`)."""
    hyper, discount = config.sac, config.discount
    net = make_networks(config, spec)
    critic_optimizer = adam(hyper.critic_learning_rate, hyper.max_grad_norm)
    policy_optimizer = adam(hyper.policy_learning_rate, hyper.max_grad_norm)
    temperature_optimizer = adam(hyper.temperature_learning_rate, 0.0)

    def init(key: chex.PRNGKey) -> SACState:
        policy_key, critic_key = jax.random.split(key)
        policy, critics = net.init_policy(policy_key), net.init_critics(critic_key)
        log_temperature = jnp.log(jnp.float32(hyper.initial_temperature))
        return SACState(
            policy=policy,
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            log_temperature=log_temperature,
            optimizer=(
                policy_optimizer.init(policy),
                critic_optimizer.init(critics),
                temperature_optimizer.init(log_temperature),
            ),
            updates=jnp.zeros((), jnp.int32),
        )

    def value(
        state: Any, critics: chex.ArrayTree, observation: chex.Array, key: chex.PRNGKey
    ) -> chex.Array:
        action, log_prob = jax.lax.stop_gradient(
            net.sample_and_log_prob(state.policy, observation, key)
        )
        q = net.q_values(critics, observation, action).min(axis=0)
        return q - jnp.exp(state.log_temperature) * log_prob

    def critic_loss(
        critics: chex.ArrayTree, batch: Transition, target: chex.Array, weight: chex.Numeric
    ):
        q = net.q_values(critics, batch.observation, batch.action)
        error = jnp.square(q - target[None]) * jnp.broadcast_to(weight, q.shape)
        return 0.5 * error.mean(axis=1).sum(), q.mean()

    def policy_loss(policy: chex.ArrayTree, state: SACState, batch: Transition, key: chex.PRNGKey):
        action, log_prob = net.sample_and_log_prob(policy, batch.observation, key)
        q = net.q_values(state.critics, batch.observation, action).min(axis=0)
        return (jnp.exp(state.log_temperature) * log_prob - q).mean(), log_prob.mean()

    def update_critics(
        state: SACState,
        batch: Transition,
        key: chex.PRNGKey,
        weight: chex.Numeric,
        count: chex.Array,
    ) -> tuple[SACState, Metrics]:
        next_value = value(state, state.target_critics, batch.next_observation, key)
        target = batch.reward + discount * (1.0 - batch.terminated) * next_value
        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(
            state.critics, batch, target, weight
        )
        policy_opt, critic_opt, temperature_opt = state.optimizer
        critics, critic_opt = descend(critic_optimizer, grads, critic_opt, state.critics)
        rate = jnp.where(count % hyper.target_update_every == 0, hyper.target_update_rate, 0.0)
        state = state.replace(
            critics=critics,
            target_critics=optax.incremental_update(critics, state.target_critics, rate),
            optimizer=(policy_opt, critic_opt, temperature_opt),
        )
        return state, {"critic/loss": q_loss, "critic/q": q_mean, "critic/target": target.mean()}

    def update_policy(
        state: SACState, batch: Transition, key: chex.PRNGKey
    ) -> tuple[SACState, Metrics]:
        policy_opt, critic_opt, temperature_opt = state.optimizer
        (pi_loss, log_prob), grads = jax.value_and_grad(policy_loss, has_aux=True)(
            state.policy, state, batch, key
        )
        policy, policy_opt = descend(policy_optimizer, grads, policy_opt, state.policy)
        log_temperature = state.log_temperature
        if hyper.learn_temperature:
            # d/d(log alpha) of -log(alpha) (log pi + target entropy): eq. 18 in its usual log form
            grad = -(log_prob + hyper.target_entropy)
            log_temperature, temperature_opt = descend(
                temperature_optimizer, grad, temperature_opt, log_temperature
            )
        state = state.replace(
            policy=policy,
            log_temperature=log_temperature,
            optimizer=(policy_opt, critic_opt, temperature_opt),
        )
        return state, policy_metrics(pi_loss, log_prob)

    def policy_metrics(pi_loss: chex.Array, log_prob: chex.Array) -> Metrics:
        return {"policy/loss": pi_loss, "policy/entropy": -log_prob}

    def update(
        state: SACState, batch: Transition, key: chex.PRNGKey, weight: chex.Numeric = 1.0
    ) -> tuple[SACState, Metrics]:
        target_key, policy_key = jax.random.split(key)
        updates = state.updates + 1
        state, metrics = update_critics(state, batch, target_key, weight, updates)
        if hyper.policy_update_every == 1:
            state, more = update_policy(state, batch, policy_key)
        else:
            state, more = jax.lax.cond(
                updates % hyper.policy_update_every == 0,
                lambda: update_policy(state, batch, policy_key),
                lambda: (
                    state,
                    policy_metrics(*policy_loss(state.policy, state, batch, policy_key)),
                ),
            )
        metrics |= more | {"policy/temperature": jnp.exp(state.log_temperature)}
        return state.replace(updates=updates), metrics

    return SAC(
        init=init,
        init_critics=net.init_critics,
        update=update,
        update_critics=update_critics,
        sample_and_log_prob=net.sample_and_log_prob,
        sample=net.sample,
        greedy=net.greedy,
        q_values=net.q_values,
        value=value,
    )


def parts_of(learner: SAC, ensemble: Ensemble, spec: EnvSpec) -> Parts:
    """Returns what model objectives and rollout filters are built from."""
    return Parts(
        ensemble=ensemble,
        spec=spec,
        q_values=learner.q_values,
        sample_policy=learner.sample,
        sample_and_log_prob=learner.sample_and_log_prob,
        greedy_policy=learner.greedy,
        init_critics=learner.init_critics,
        value=learner.value,
    )


def context_of(state: SACState, normalizers: Normalizers) -> Context:
    """Returns what model objectives and rollout filters may know of the learner."""
    return Context(
        policy=state.policy,
        critics=state.critics,
        target_critics=state.target_critics,
        log_temperature=state.log_temperature,
        normalizers=normalizers,
    )


def make_learner(config: ConfigDict, spec: EnvSpec) -> Learner:
    """Builds soft actor-critic as the learner of a one-step agent."""
    learner = make_sac(config, spec)

    def behave(state: SACState, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        if config.sac.explore_greedily:
            return learner.greedy(state.policy, observation)
        return learner.sample(state.policy, observation, key)

    return Learner(
        init=learner.init,
        update=learner.update,
        explore=functools.partial(uniform_action, spec),
        behave=behave,
        context=context_of,
        parts=lambda ensemble: parts_of(learner, ensemble, spec),
        policy=lambda state: state.policy,
        act=learner.greedy,
    )


def uniform_action(spec: EnvSpec, key: chex.PRNGKey) -> chex.Array:
    """Draws an action [A] uniformly from [-1, 1]. Consumes `key`."""
    return jax.random.uniform(key, (spec.action_size,), minval=-1.0, maxval=1.0)


def adam(learning_rate: float, max_grad_norm: float) -> optax.GradientTransformation:
    """Adam, on gradients whose global norm is clipped unless `max_grad_norm` is 0."""
    adam = optax.adam(learning_rate)
    if not max_grad_norm:
        return adam
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), adam)


def descend(
    optimizer: optax.GradientTransformation,
    grads: chex.ArrayTree,
    opt_state: optax.OptState,
    params: chex.ArrayTree,
) -> tuple[Any, optax.OptState]:
    """Returns the parameters after one step of `optimizer`, and its state."""
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state


class SACAgentState(struct.PyTreeNode):
    """State of the model-free agent."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    sac: SACState
    replay: ReplayState


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the model-free agent of a resolved configuration."""
    learner = make_sac(config, spec)

    def init(key: chex.PRNGKey) -> SACAgentState:
        key, sac_key = jax.random.split(key)
        example = example_transition(spec.observation_size, spec.action_size)
        return SACAgentState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            sac=learner.init(sac_key),
            replay=buffer.init(config.replay_capacity, example),
        )

    def sample_batch(state: SACAgentState, key: chex.PRNGKey) -> WeightedBatch:
        return buffer.sample(state.replay, key, config.sac.batch_size), 1.0

    return acting(config, spec, learner, sample_batch)._replace(init=init)


def acting(
    config: ConfigDict,
    spec: EnvSpec,
    learner: SAC,
    sample_batch: Callable[[Any, chex.PRNGKey], WeightedBatch],
) -> Agent:
    """Returns an `Agent` that acts and learns with soft actor-critic, lacking only its `init`.

    Its state has the fields `key`, `env_steps`, `sac` and `replay`; `sample_batch(state, key)`
    draws the transitions [B, ...] of one gradient update from it, and their weights.
    """

    def explore(state: Any, observation: chex.Array) -> tuple[Any, chex.Array]:
        del observation
        key, action_key = jax.random.split(state.key)
        return state.replace(key=key), uniform_action(spec, action_key)

    def step(
        state: Any, transition: Transition, next_observation: chex.Array
    ) -> tuple[Any, chex.Array, Metrics]:
        state = observe(state, transition)
        key, update_key, action_key = jax.random.split(state.key, 3)

        def update(learned: SACState) -> tuple[SACState, Metrics]:
            batch_keys, update_keys = jax.random.split(update_key, (2, config.updates_per_step))
            batches, weights = jax.vmap(lambda key: sample_batch(state, key))(batch_keys)
            learned, metrics = jax.lax.scan(
                lambda learned, inputs: learner.update(learned, *inputs),
                learned,
                (batches, update_keys, weights),
            )
            return learned, jax.tree.map(jnp.mean, metrics)

        learning_step = state.env_steps - config.initial_steps
        learned, metrics = periodically(config.update_every, learning_step, update, state.sac)
        if config.sac.explore_greedily:
            action = learner.greedy(learned.policy, next_observation)
        else:
            action = learner.sample(learned.policy, next_observation, action_key)
        return state.replace(key=key, sac=learned), action, metrics

    return Agent(
        init=learner.init,
        explore=explore,
        observe=observe,
        step=step,
        refresh=(),
        policy=lambda state: state.sac.policy,
        act=reactive(learner.greedy),
        refresh_every=0,
        internals=Internals(
            sample=lambda state, observation, key: learner.sample_and_log_prob(
                state.sac.policy, observation, key
            ),
            value=lambda state, observation, key: learner.value(
                state.sac, state.sac.critics, observation, key
            ),
            temperature=lambda state: jnp.exp(state.sac.log_temperature),
        ),
    )
