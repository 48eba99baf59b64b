"""Model-based policy optimisation (Janner et al. 2019, arXiv 1906.08253, algorithm 2).

Every `model.train_every` environment steps a refresh fits the ensemble to the real data and fills a
replay with short rollouts of the current policy in it; every step does soft actor-critic updates on
batches that mix the two. The model objective and the rollout filter are the parts other algorithms
swap.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from agents import sac
from agents.base import Agent, Metrics, Stage
from agents.filters import FILTERS
from agents.fit_diagnostics import make_fit_diagnostics
from agents.refit import Learner, make_refit
from agents.sac import SACState, WeightedBatch
from envs.spec import EnvSpec
from models.ensemble import make_ensemble
from models.fit import make_fit
from models.objectives import OBJECTIVES, Context
from models.rollout import make_rollout, rollout_length
from models.supervised_noise import make_training_data
from models.training import NO_REFIT, ModelState
from replay import ReplayState, Transition, WeightedTransition, buffer, example_transition

NOISE_KEY = 6  # folded into the key of the state, whose split makes 0 to 3


class MBPOState(struct.PyTreeNode):
    """Everything the agent carries."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    sac: SACState
    model: ModelState
    filter: chex.ArrayTree  # state of the RolloutFilter
    replay: ReplayState  # real transitions
    model_replay: ReplayState  # WeightedTransitions; room for the longest rollouts of the run
    window: chex.Array  # int32 [], newest generated transitions in use
    training_data: chex.ArrayTree  # state of the TrainingData of the model


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of a resolved configuration."""
    rollout = config.rollout
    policy_learner = sac.make_sac(config, spec)
    ensemble = make_ensemble(config, spec)
    parts = sac.parts_of(policy_learner, ensemble, spec)
    refit = make_refit(config, parts, policy_learner)
    objective = OBJECTIVES[config.model.objective](config, parts)
    model_learner = make_fit(config, ensemble, objective, refit)
    training_data = make_training_data(config.model.sl_noise)
    diagnose = make_fit_diagnostics(config, parts, objective)
    rollout_filter = FILTERS[rollout.filter](config, parts)
    generate = make_rollout(config, parts, rollout_filter, rollout.starts)
    batch_real = int(config.sac.batch_size * rollout.real_ratio)
    batch_model = config.sac.batch_size - batch_real
    refreshes_retained = -(-rollout.retain_steps // config.model.train_every)

    def scheduled_length(env_steps: chex.Numeric) -> chex.Numeric:
        return rollout_length(rollout.schedule, env_steps - config.initial_steps)

    def full_window(env_steps: chex.Numeric) -> chex.Numeric:
        """Transitions that `retain_steps` of refreshes generate if no branch ends early."""
        return scheduled_length(env_steps) * rollout.starts * refreshes_retained

    model_capacity = int(full_window(config.total_steps))

    def init(key: chex.PRNGKey) -> MBPOState:
        key, sac_key, model_key, filter_key = jax.random.split(key, 4)
        example = example_transition(spec.observation_size, spec.action_size)
        replay = buffer.init(config.replay_capacity, example)
        return MBPOState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            sac=policy_learner.init(sac_key),
            model=model_learner.init(model_key),
            filter=rollout_filter.init(filter_key),
            replay=replay,
            model_replay=buffer.init(model_capacity, WeightedTransition(example, jnp.zeros(()))),
            window=jnp.zeros((), jnp.int32),
            training_data=training_data.init(replay),
        )

    def context_of(state: MBPOState) -> Context:
        return sac.context_of(state.sac, state.model.normalizers)

    def refresh_keys(state: MBPOState) -> chex.PRNGKey:
        """Keys [4] of one refresh: the state's next one, fit, filter, rollouts."""
        return jax.random.split(state.key, 4)

    def fit_model(state: MBPOState) -> tuple[MBPOState, Metrics]:
        noise_key = jax.random.fold_in(state.key, NOISE_KEY)
        data, replay = training_data.update(
            state.training_data, state.replay, state.env_steps, noise_key
        )
        state = state.replace(training_data=data)
        arguments = state.model, replay, context_of(state), refresh_keys(state)[1]
        if refit is NO_REFIT:
            model, metrics = model_learner.fit(*arguments)
        else:
            learner = Learner(
                state.sac,
                state.model_replay,
                state.window,
                state.replay,
                scheduled_length(state.env_steps),
            )
            model, learner, metrics = model_learner.fit_and_refit(*arguments, learner)
            state = state.replace(
                sac=learner.sac, model_replay=learner.model_replay, window=learner.window
            )
        state = state.replace(model=model)
        return state, metrics | diagnose(state.model, context_of(state), state.replay, state.key)

    def update_filter(state: MBPOState) -> tuple[MBPOState, Metrics]:
        assert rollout_filter.update is not None, "not a stage of this agent otherwise"
        filter_state, model, metrics = rollout_filter.update(
            state.filter, state.model, state.replay, context_of(state), refresh_keys(state)[2]
        )
        return state.replace(filter=filter_state, model=model), metrics

    def fill_model_replay(state: MBPOState) -> tuple[MBPOState, Metrics]:
        keys = refresh_keys(state)
        model_replay, metrics = generate(
            state.model,
            state.sac.policy,
            state.filter,
            state.replay,
            state.model_replay,
            scheduled_length(state.env_steps),
            keys[3],
        )
        in_use = jnp.minimum(
            state.window + metrics["rollout/transitions"], full_window(state.env_steps)
        )
        return state.replace(key=keys[0], model_replay=model_replay, window=in_use), metrics

    def sample_batch(state: MBPOState, key: chex.PRNGKey) -> WeightedBatch:
        real_key, model_key = jax.random.split(key)
        real = _unweighted(buffer.sample(state.replay, real_key, batch_real))
        rest = jax.lax.cond(  # a filter may have kept nothing at all
            state.window > 0,
            lambda: buffer.sample(state.model_replay, model_key, batch_model, state.window),
            lambda: _unweighted(buffer.sample(state.replay, model_key, batch_model)),
        )
        batch = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, rest)
        return batch.transition, batch.weight

    refresh = [Stage("model", fit_model), Stage("rollouts", fill_model_replay)]
    if rollout_filter.update is not None:
        refresh.insert(1, Stage("flows", update_filter))
    agent = sac.acting(config, spec, policy_learner, sample_batch)
    return agent._replace(
        init=init,
        refresh=tuple(refresh),
        refresh_every=config.model.train_every,
        internals=agent.internals._replace(model=lambda state: state.model, ensemble=ensemble),
    )


def _unweighted(batch: Transition) -> WeightedTransition:
    return WeightedTransition(batch, jnp.ones(batch.reward.shape))
