"""Model-based policy optimisation (Janner et al. 2019, arXiv 1906.08253, algorithm 2).

Every `model.train_every` environment steps `refresh` fits the ensemble to the real data and fills a
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
from agents.base import Agent, Metrics
from agents.sac import SACState
from envs.spec import EnvSpec
from models.ensemble import make_ensemble
from models.fit import ModelState, make_fit
from models.objectives import OBJECTIVES, Context, Parts
from models.rollout import FILTERS, make_rollout, rollout_length
from replay import ReplayState, Transition, buffer, example_transition


class MBPOState(struct.PyTreeNode):
    """Everything the agent carries."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    sac: SACState
    model: ModelState
    filter: chex.ArrayTree  # state of the RolloutFilter
    replay: ReplayState  # real transitions
    model_replay: ReplayState  # generated transitions; has room for the longest rollouts of the run
    window: chex.Array  # int32 [], newest generated transitions in use


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of a resolved configuration."""
    rollout = config.rollout
    policy_learner = sac.make_sac(config, spec)
    ensemble = make_ensemble(config, spec)
    parts = Parts(ensemble, spec, policy_learner.q_values, policy_learner.sample)
    model_learner = make_fit(config, ensemble, OBJECTIVES[config.model.objective](config, parts))
    rollout_filter = FILTERS[rollout.filter](config, parts)
    generate = make_rollout(config, parts, rollout_filter)
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
        return MBPOState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            sac=policy_learner.init(sac_key),
            model=model_learner.init(model_key),
            filter=rollout_filter.init(filter_key),
            replay=buffer.init(config.replay_capacity, example),
            model_replay=buffer.init(model_capacity, example),
            window=jnp.zeros((), jnp.int32),
        )

    def refresh(state: MBPOState) -> tuple[MBPOState, Metrics]:
        key, fit_key, filter_key, rollout_key = jax.random.split(state.key, 4)
        context = Context(
            policy=state.sac.policy,
            critics=state.sac.critics,
            target_critics=state.sac.target_critics,
            log_temperature=state.sac.log_temperature,
            normalizers=state.model.normalizers,
        )
        model, fit_metrics = model_learner.fit(state.model, state.replay, context, fit_key)
        context = context.replace(normalizers=model.normalizers)
        filter_state, filter_metrics = rollout_filter.update(
            state.filter, state.replay, model, context, filter_key
        )
        model_replay, rollout_metrics = generate(
            model,
            state.sac.policy,
            filter_state,
            state.replay,
            state.model_replay,
            scheduled_length(state.env_steps),
            rollout_key,
        )
        in_use = state.window + rollout_metrics["rollout/transitions"]
        state = state.replace(
            key=key,
            model=model,
            filter=filter_state,
            model_replay=model_replay,
            window=jnp.minimum(in_use, full_window(state.env_steps)),
        )
        return state, fit_metrics | filter_metrics | rollout_metrics

    def sample_batch(state: MBPOState, key: chex.PRNGKey) -> Transition:
        real_key, model_key = jax.random.split(key)
        real = buffer.sample(state.replay, real_key, batch_real)
        rest = jax.lax.cond(  # a filter may have kept nothing at all
            state.window > 0,
            lambda: buffer.sample(state.model_replay, model_key, batch_model, state.window),
            lambda: buffer.sample(state.replay, model_key, batch_model),
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, rest)

    return sac.acting(config, spec, policy_learner, sample_batch)._replace(
        init=init, refresh=refresh, refresh_every=config.model.train_every
    )
