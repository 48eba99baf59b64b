"""One-step model-based RL: every update sees real states and actions, and where the model leads.

Dyna (Sutton 1990) with the model and the learner trained together, one gradient step each per
environment step, as the paper on optimal model design has it (Nikishin et al. 2022, arXiv
2106.03273, algorithm 1). The learner is soft Q-learning or soft actor-critic, depending on the
actions; the model objective is any of `models.objectives`.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from agents import sac, soft_q
from agents.base import Agent, Internals, Metrics, Stage, observe, periodically, reactive
from agents.learner import Learner, LearnerState
from envs.spec import EnvSpec
from models.ensemble import make_ensemble
from models.objectives import OBJECTIVES
from models.objectives.omd import Outcome, imagination_key, make_levels
from models.objectives.omd_diagnostics import make_diagnostics
from models.training import NO_REFIT, ModelState, make_training
from replay import ReplayState, Transition, buffer, example_transition

Update = Callable[..., tuple[LearnerState, ModelState, Metrics]]
"""`(learner_state, model, replay, key) -> (learner_state, model, metrics)`"""


class DynaState(struct.PyTreeNode):
    """Everything the agent carries."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    learner: LearnerState
    model: ModelState
    replay: ReplayState


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of a resolved configuration."""
    learner = (soft_q if spec.discrete else sac).make_learner(config, spec)
    ensemble = make_ensemble(config, spec)
    parts = learner.parts(ensemble)
    objective = OBJECTIVES[config.model.objective](config, parts)
    training = make_training(config, ensemble, objective, NO_REFIT)
    make_update = critics_first if config.model.objective == "omd" else model_first
    imagine = make_levels(config, parts).imagine
    update = make_update(config, learner, training.step, imagine)
    diagnose = make_diagnostics(config, parts)

    def init(key: chex.PRNGKey) -> DynaState:
        key, learner_key, model_key = jax.random.split(key, 3)
        example = example_transition(spec.observation_size, spec.action_size)
        return DynaState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            learner=learner.init(learner_key),
            model=training.init(model_key),
            replay=buffer.init(config.replay_capacity, example),
        )

    def explore(state: DynaState, observation: chex.Array) -> tuple[DynaState, chex.Array]:
        del observation
        key, action_key = jax.random.split(state.key)
        return state.replace(key=key), learner.explore(action_key)

    def step(
        state: DynaState, transition: Transition, next_observation: chex.Array
    ) -> tuple[DynaState, chex.Array, Metrics]:
        state = observe(state, transition)
        key, update_key, action_key = jax.random.split(state.key, 3)

        def one(carry: tuple, key: chex.PRNGKey) -> tuple[tuple, Metrics]:
            learned, model, metrics = update(*carry, state.replay, key)
            return (learned, model), metrics

        def updates(carry: tuple) -> tuple[tuple, Metrics]:
            keys = jax.random.split(update_key, config.updates_per_step)
            carry, metrics = jax.lax.scan(one, carry, keys)
            return carry, jax.tree.map(jnp.mean, metrics)

        (learned, model), metrics = periodically(
            config.update_every,
            state.env_steps - config.initial_steps,
            updates,
            (state.learner, state.model),
        )
        action = learner.behave(learned, next_observation, action_key)
        state = state.replace(key=key, learner=learned, model=model)
        return state, action, metrics

    def inspect(state: DynaState) -> tuple[DynaState, Metrics]:
        key, batch_key, diagnosis_key = jax.random.split(state.key, 3)
        batch = deal(config, buffer.sample(state.replay, batch_key, config.sac.batch_size))
        context = learner.context(state.learner, state.model.normalizers)
        metrics = diagnose(state.model.params, batch, context, diagnosis_key)
        return state.replace(key=key), metrics

    return Agent(
        init=init,
        explore=explore,
        observe=observe,
        step=step,
        refresh=(Stage("diagnostics", inspect),) if config.omd.diagnose_every else (),
        policy=lambda state: learner.policy(state.learner),
        act=reactive(learner.act),
        refresh_every=config.omd.diagnose_every,
        internals=Internals(
            sample=lambda state, observation, key: parts.sample_and_log_prob(
                learner.context(state.learner, state.model.normalizers).policy, observation, key
            ),
            value=lambda state, observation, key: parts.value(
                state.learner, state.learner.critics, observation, key
            ),
            temperature=lambda state: jnp.exp(
                learner.context(state.learner, state.model.normalizers).log_temperature
            ),
            model=lambda state: state.model,
            ensemble=ensemble,
        ),
    )


def critics_first(
    config: ConfigDict, learner: Learner, step_model: Callable, imagine: Callable
) -> Update:
    """Returns the update that changes the model after the critics, by what they became in it.

    Algorithm 1 of the paper: `inner_steps` steps of the learner on one imagined batch, then a step
    of the model on the hypergradient there, with the same batch.
    """

    def update(state: LearnerState, model: ModelState, replay: ReplayState, key: chex.PRNGKey):
        batch_key, fresh_key, inner_key, model_key = jax.random.split(key, 4)
        batch = deal(config, buffer.sample(replay, batch_key, config.sac.batch_size))
        if config.omd.fresh_critics:
            fresh = learner.init(fresh_key)
            state = state.replace(critics=fresh.critics, target_critics=fresh.target_critics)
        if config.omd.fresh_optimizer:  # Adam starts from zeros
            state = state.replace(optimizer=jax.tree.map(jnp.zeros_like, state.optimizer))
        context = learner.context(state, model.normalizers)
        imagined = imagine(model.params, batch, context, imagination_key(model_key))
        state, metrics = learn(config, learner, state, batch, imagined, inner_key)
        context = learner.context(state, model.normalizers)
        model, model_metrics = step_model(model, batch, context, model_key)
        return state, model, metrics | named(model_metrics) | errors(batch, imagined)

    return update


def model_first(
    config: ConfigDict, learner: Learner, step_model: Callable, imagine: Callable
) -> Update:
    """Returns the update that fits the model to the data first: the usual order."""

    def update(state: LearnerState, model: ModelState, replay: ReplayState, key: chex.PRNGKey):
        batch_key, fresh_key, imagine_key, inner_key, model_key = jax.random.split(key, 5)
        batch = deal(config, buffer.sample(replay, batch_key, config.sac.batch_size))
        context = learner.context(state, model.normalizers)
        model, model_metrics = step_model(model, batch, context, model_key)
        if config.omd.fresh_batch:
            batch = deal(config, buffer.sample(replay, fresh_key, config.sac.batch_size))
        imagined = imagine(model.params, batch, context, imagine_key)
        state, metrics = learn(config, learner, state, batch, imagined, inner_key)
        return state, model, metrics | named(model_metrics) | errors(batch, imagined)

    return update


def learn(
    config: ConfigDict,
    learner: Learner,
    state: LearnerState,
    batch: Transition,
    imagined: Outcome,
    key: chex.PRNGKey,
) -> tuple[LearnerState, Metrics]:
    """Does `inner_steps` updates of the learner on a batch [E, B / E, ...] with other outcomes."""
    batch = batch._replace(**imagined._asdict())
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    state, metrics = jax.lax.scan(
        lambda state, key: learner.update(state, batch, key),
        state,
        jax.random.split(key, config.omd.inner_steps),
    )
    return state, jax.tree.map(jnp.mean, metrics)


def deal(config: ConfigDict, batch: Transition) -> Transition:
    """Gives every member of the ensemble its share of a batch: [B, ...] to [E, B / E, ...]."""
    members = config.model.num_members
    return jax.tree.map(lambda x: x.reshape(members, -1, *x.shape[1:]), batch)


def named(model_metrics: Metrics) -> Metrics:
    """Returns the metrics of a model's gradient step under the names they have in every agent."""
    return {f"model/{name}": value for name, value in model_metrics.items()}


def errors(real: Transition, imagined: Outcome) -> Metrics:
    """Returns the squared errors of the model: summed over dimensions, averaged over rows."""
    states = jnp.square(imagined.next_observation - real.next_observation).sum(axis=-1)
    return {
        "model/next_state_mse": states.mean(),
        "model/reward_mse": jnp.square(imagined.reward - real.reward).mean(),
    }
