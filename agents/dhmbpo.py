"""Double-horizon model-based policy optimisation (Kubo et al. 2025, arXiv 2512.15439).

Every `model.train_every` environment steps the ensemble is fitted. Then, round after round, the
policy is rolled out in it for many steps to find the states it reaches (distribution rollouts), and
learns from those by short rollouts that its gradient goes through (training rollouts). Between two
refreshes one policy acts. Model objective and rollout filter are swapped as in MBPO.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from agents.base import Agent, Internals, Metrics, Stage, observe, reactive
from agents.filters import FILTERS
from agents.fit_diagnostics import make_fit_diagnostics
from agents.sac import uniform_action
from agents.scaled_networks import Policy
from agents.value_gradients import LearnerState, make_learner
from envs.spec import EnvSpec
from models.ensemble import make_ensemble
from models.fit import make_fit
from models.normalizer import Normalizer
from models.objectives import OBJECTIVES, Context
from models.rollout import STATES, make_rollout, real_states
from models.training import ModelState
from replay import ReplayState, Transition, buffer, example_transition
from replay.episodes import sample_early

Update = Callable[..., tuple[LearnerState, Metrics]]
Draw = Callable[[ReplayState, chex.PRNGKey, int], chex.Array]


class DHMBPOState(struct.PyTreeNode):
    """Everything the agent carries."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    learner: LearnerState
    model: ModelState
    filter: chex.ArrayTree  # state of the RolloutFilter
    replay: ReplayState  # real transitions
    ring: ReplayState  # observations [O] that distribution rollouts reached, the newest


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of a resolved configuration (its blocks `dhmbpo` and `sac`)."""
    hyper = config.dhmbpo
    ensemble = make_ensemble(config, spec)
    learner = make_learner(config, spec, ensemble)
    parts = learner.parts
    objective = OBJECTIVES[config.model.objective](config, parts)
    model_learner = make_fit(config, ensemble, objective)
    diagnose = make_fit_diagnostics(config, parts, objective)
    rollout_filter = FILTERS[config.rollout.filter](config, parts)
    starts = make_starts(hyper.early_share, hyper.early_steps)
    generate = make_rollout(config, parts, rollout_filter, config.rollout.starts, STATES, starts)

    def init(key: chex.PRNGKey) -> DHMBPOState:
        key, learner_key, model_key, filter_key = jax.random.split(key, 4)
        example = example_transition(spec.observation_size, spec.action_size)
        return DHMBPOState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            learner=learner.init(learner_key),
            model=model_learner.init(model_key),
            filter=rollout_filter.init(filter_key),
            replay=buffer.init(config.replay_capacity, example),
            ring=buffer.init(hyper.ring_capacity, example.observation),
        )

    def observations(model: ModelState) -> Normalizer:
        """Statistics [..., O] of the real observations, as of the last fit."""
        return Normalizer(
            *(leaf[..., : spec.observation_size] for leaf in model.normalizers.inputs)
        )

    def policy_of(state: DHMBPOState) -> Policy:
        return Policy(state.learner.policy, observations(state.model))

    def context_of(state: DHMBPOState) -> Context:
        return learner.context(state.learner, observations(state.model), state.model.normalizers)

    def refresh_keys(state: DHMBPOState) -> chex.PRNGKey:
        """Keys [4] of one refresh: the state's next one, fit, filter, learning."""
        return jax.random.split(state.key, 4)

    def fit_model(state: DHMBPOState) -> tuple[DHMBPOState, Metrics]:
        model, metrics = model_learner.fit(
            state.model, state.replay, context_of(state), refresh_keys(state)[1]
        )
        state = state.replace(model=model)
        return state, metrics | diagnose(model, context_of(state), state.replay, state.key)

    def update_filter(state: DHMBPOState) -> tuple[DHMBPOState, Metrics]:
        assert rollout_filter.update is not None, "not a stage of this agent otherwise"
        filter_state, model, metrics = rollout_filter.update(
            state.filter, state.model, state.replay, context_of(state), refresh_keys(state)[2]
        )
        return state.replace(filter=filter_state, model=model), metrics

    def learn(state: DHMBPOState) -> tuple[DHMBPOState, Metrics]:
        next_key, *_, learn_key = refresh_keys(state)
        elites = state.model.replace(params=state.model.elite_params())
        learning_steps = state.env_steps - config.initial_steps
        # the first refresh makes up for exploration
        steps = jnp.where(learning_steps == 0, config.initial_steps, config.model.train_every)
        updates = steps * config.updates_per_step

        def repeated(
            update: Update,
            learned: LearnerState,
            ring: ReplayState,
            count: chex.Numeric,
            key: chex.PRNGKey,
        ) -> tuple[LearnerState, Metrics]:
            def one(i: chex.Numeric, learned: LearnerState) -> tuple[LearnerState, Metrics]:
                start_key, own_key = jax.random.split(jax.random.fold_in(key, i))
                start = buffer.sample(ring, start_key, config.sac.batch_size)
                return update(learned, elites, observations(elites), start, own_key)

            return mean_over(count, one, learned)

        def one_round(number: chex.Numeric, carry: tuple) -> tuple[tuple, Metrics]:
            """Distribution rollouts of the policy as it is, and updates from what they reach."""
            learned, ring = carry
            keys = jax.random.split(jax.random.fold_in(learn_key, number), 3)
            ring, rollout_metrics = generate(
                state.model,
                Policy(learned.policy, observations(state.model)),
                state.filter,
                state.replay,
                ring,
                jnp.int32(hyper.distribution_horizon),
                keys[0],
            )
            critics_first = jnp.where(number == 0, hyper.critic_updates, 0)
            learned, _ = repeated(learner.update_critics, learned, ring, critics_first, keys[1])
            left = updates - number * hyper.updates_per_rollout
            count = jnp.minimum(left, hyper.updates_per_rollout)
            learned, metrics = repeated(learner.update, learned, ring, count, keys[2])
            return (learned, ring), metrics | rollout_metrics

        rounds = -(-updates // hyper.updates_per_rollout)
        start = reset_now_and_then(state.learner, learning_steps), state.ring
        (learned, ring), metrics = mean_over(rounds, one_round, start)
        return state.replace(key=next_key, learner=learned, ring=ring), metrics

    def reset_now_and_then(learned: LearnerState, learning_steps: chex.Array) -> LearnerState:
        """Forgets the optimisers' moments every `refreshes_per_reset` refreshes."""
        if not hyper.refreshes_per_reset:
            return learned
        due = learning_steps % (config.model.train_every * hyper.refreshes_per_reset) == 0
        return jax.tree.map(
            lambda new, old: jnp.where(due, new, old), learner.reset_optimizer(learned), learned
        )

    def explore(state: DHMBPOState, observation: chex.Array) -> tuple[DHMBPOState, chex.Array]:
        del observation
        key, action_key = jax.random.split(state.key)
        return state.replace(key=key), uniform_action(spec, action_key)

    def step(
        state: DHMBPOState, transition: Transition, next_observation: chex.Array
    ) -> tuple[DHMBPOState, chex.Array, Metrics]:
        state = observe(state, transition)
        key, action_key = jax.random.split(state.key)
        action = parts.sample_policy(policy_of(state), next_observation, action_key)
        return state.replace(key=key), action, {}

    def value(state: DHMBPOState, observation: chex.Array, key: chex.PRNGKey) -> chex.Array:
        context = context_of(state)
        return parts.value(context, context.critics, observation, key)

    refresh = [Stage("model", fit_model), Stage("updates", learn)]
    if rollout_filter.update is not None:
        refresh.insert(1, Stage("flows", update_filter))
    return Agent(
        init=init,
        explore=explore,
        observe=observe,
        step=step,
        refresh=tuple(refresh),
        policy=policy_of,
        act=reactive(parts.greedy_policy),
        refresh_every=config.model.train_every,
        internals=Internals(
            sample=lambda state, observation, key: parts.sample_and_log_prob(
                policy_of(state), observation, key
            ),
            value=value,
            temperature=lambda state: jnp.exp(state.learner.log_temperature),
            model=lambda state: state.model,
            ensemble=ensemble,
        ),
    )


def make_starts(early_share: float, early_steps: int) -> Draw:
    """Returns how start states of distribution rollouts are drawn: `(replay, key, n) -> [n, O]`.

    A share of them, in expectation, comes from the first `early_steps` of episodes: the longer
    episodes get, the rarer are states near a reset among all.
    """
    if not early_share:
        return real_states

    def draw(replay: ReplayState, key: chex.PRNGKey, n: int) -> chex.Array:
        any_key, early_key, choice_key = jax.random.split(key, 3)
        early = jax.random.bernoulli(choice_key, early_share, (n, 1))
        return jnp.where(
            early,
            sample_early(replay, early_key, n, early_steps),
            real_states(replay, any_key, n),
        )

    return draw


def mean_over(
    count: chex.Numeric,
    step: Callable[[chex.Numeric, Any], tuple[Any, Metrics]],
    state: Any,
) -> tuple[Any, Metrics]:
    """Repeats `step(i, state) -> (state, metrics)` and returns the last state and mean metrics."""
    _, shapes = jax.eval_shape(step, 0, state)
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)

    def one(i: chex.Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        state, metrics = step(i, carry[0])
        return state, jax.tree.map(jnp.add, carry[1], metrics)

    state, sums = jax.lax.fori_loop(0, count, one, (state, sums))
    return state, jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
