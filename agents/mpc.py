"""Model-predictive control with a learned ensemble: no policy, a plan at every step.

Nagabandi et al. 2018 (arXiv 1708.02596) with a deterministic ensemble, Chua et al. 2018 (PETS,
arXiv 1805.12114) with a probabilistic one. Every `model.train_every` environment steps a refresh
fits the ensemble to all data; every step plans anew and executes the first action of the plan.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from agents.base import Agent, Internals, Metrics, Stage, observe
from agents.recipes import PLANNER_FIELDS
from agents.sac import uniform_action
from envs.spec import EnvSpec
from models.ensemble import Ensemble, Normalizers, make_ensemble
from models.fit import make_fit
from models.objectives import OBJECTIVES, Context, ModelObjective, Parts
from models.supervised_noise import make_training_data
from models.training import ModelState
from planners import PLANNERS, ModelFn, Planner, PlanOutput, search_space, trajectory_sampling
from replay import ReplayState, Transition, buffer, example_transition

EVALUATION_KEY = 3  # folded into the key of the state; 0 to 2 are its split's


class MPCState(struct.PyTreeNode):
    """Everything the agent carries."""

    key: chex.PRNGKey
    env_steps: chex.Array  # int32 [], transitions observed
    model: ModelState
    plan: Any  # state of the planner in the episode under way
    replay: ReplayState
    training_data: Any  # state of the TrainingData


class MPCPolicy(NamedTuple):
    """What plans of an evaluation need."""

    params: chex.ArrayTree  # of the ensemble, leading axis E
    normalizers: Normalizers
    elites: chex.Array  # int32 [K]
    key: chex.PRNGKey  # of the agent's state; only folded into, never used


def make_agent(config: ConfigDict, spec: EnvSpec) -> Agent:
    """Builds the agent of a resolved configuration."""
    ensemble = make_ensemble(config, spec)
    learner = make_fit(config, ensemble, _make_objective(config, spec, ensemble))
    training_data = make_training_data(config.model.sl_noise)
    planner = make_planner(config, spec)
    deterministic = config.rollout.deterministic
    imagined = make_ensemble(config, spec, means_only=deterministic)
    model_fn = make_model_fn(imagined, deterministic=deterministic)
    reward_fn = None if config.model.learn_reward else spec.reward

    def plan(model: Any, key: chex.PRNGKey, state: Any, observation: chex.Array) -> PlanOutput:
        """Plans with the elites of a ModelState or of an MPCPolicy."""
        elites = jax.tree.map(lambda leaf: leaf[model.elites], model.params)
        params = elites, model.normalizers
        return planner.plan(params, key, state, observation, model_fn, reward_fn)

    def init(key: chex.PRNGKey) -> MPCState:
        key, model_key = jax.random.split(key)
        example = example_transition(spec.observation_size, spec.action_size)
        replay = buffer.init(config.replay_capacity, example)
        return MPCState(
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            model=learner.init(model_key),
            plan=planner.init(),
            replay=replay,
            training_data=training_data.init(replay),
        )

    def explore(state: MPCState, observation: chex.Array) -> tuple[MPCState, chex.Array]:
        del observation
        key, action_key = jax.random.split(state.key)
        return state.replace(key=key), uniform_action(spec, action_key)

    def step(
        state: MPCState, transition: Transition, next_observation: chex.Array
    ) -> tuple[MPCState, chex.Array, Metrics]:
        state = observe(state, transition)
        key, plan_key = jax.random.split(state.key)
        over = (transition.terminated > 0) | (transition.truncated > 0)
        start = jax.tree.map(lambda new, old: jnp.where(over, new, old), planner.init(), state.plan)
        output = plan(state.model, plan_key, start, next_observation)
        return state.replace(key=key, plan=output.state), output.action, plan_metrics(output)

    def fit_model(state: MPCState) -> tuple[MPCState, Metrics]:
        key, fit_key, noise_key = jax.random.split(state.key, 3)
        data, replay = training_data.update(
            state.training_data, state.replay, state.env_steps, noise_key
        )
        context = Context((), (), (), jnp.zeros(()), state.model.normalizers)
        model, metrics = learner.fit(state.model, replay, context, fit_key)
        return state.replace(key=key, model=model, training_data=data), metrics

    def policy(state: MPCState) -> MPCPolicy:
        model = state.model
        return MPCPolicy(model.params, model.normalizers, model.elites, state.key)

    def begin(policy: MPCPolicy, num_episodes: int) -> tuple[chex.PRNGKey, Any]:
        keys = jax.random.split(jax.random.fold_in(policy.key, EVALUATION_KEY), num_episodes)
        plans = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_episodes, *leaf.shape)), planner.init()
        )
        return keys, plans

    def act(
        policy: MPCPolicy, memory: tuple[chex.PRNGKey, Any], observations: chex.Array
    ) -> tuple[chex.Array, tuple[chex.PRNGKey, Any]]:
        def one(inputs: tuple[chex.PRNGKey, Any, chex.Array]):
            key, plan_key = jax.random.split(inputs[0])
            output = plan(policy, plan_key, *inputs[1:])
            return output.action, (key, output.state)

        def unless_over(inputs: tuple[chex.PRNGKey, Any, chex.Array]):
            idle = jnp.zeros(spec.action_size), inputs[:2]
            return jax.lax.cond(jnp.isnan(inputs[2]).all(), lambda: idle, lambda: one(inputs))

        # planning for all episodes together would not stay in the cache of a CPU
        episodes = (*memory, observations)
        on_cpu = jax.default_backend() == "cpu"
        return jax.lax.map(unless_over, episodes) if on_cpu else jax.vmap(one)(episodes)

    return Agent(
        init=init,
        explore=explore,
        observe=observe,
        step=step,
        refresh=(Stage("model", fit_model),),
        policy=policy,
        act=act,
        refresh_every=config.model.train_every,
        begin=begin,
        internals=Internals(model=lambda state: state.model, ensemble=ensemble),
    )


def plan_metrics(output: PlanOutput) -> Metrics:
    """Returns what is logged about a plan.

    Where the model overflows for all candidates there is no return: `planner/failed` is 1 then, and
    the returns count as 0, because a number that is not finite would end the run.
    """
    metrics = {"planner/value": output.value, **output.metrics}
    finite = {name: jnp.where(jnp.isfinite(x), x, 0.0) for name, x in metrics.items()}
    return {**finite, "planner/failed": 1.0 - jnp.isfinite(output.value)}


def make_planner(config: ConfigDict, spec: EnvSpec) -> Planner:
    """Builds the planner of a resolved configuration (its `planner` block)."""
    hyper = config.planner
    evaluate = trajectory_sampling(
        propagation=hyper.propagation,
        num_members=config.model.num_elites,
        num_particles=hyper.num_particles,
        termination=None if hyper.ignore_termination else spec.termination,
    )
    space = search_space(horizon=hyper.horizon, action_size=spec.action_size)
    options = {name: hyper[name] for name in PLANNER_FIELDS[hyper.name]}
    return PLANNERS[hyper.name](evaluate, space, **options)


def make_model_fn(ensemble: Ensemble, *, deterministic: bool) -> ModelFn:
    """Builds the function whose parameters are those of M members, and their normalisers."""

    def model_fn(params, key, observation, action) -> tuple[chex.Array, chex.Array]:
        members, normalizers = params
        prediction = ensemble.predict(members, normalizers, observation, action)
        target = prediction.mean
        if not deterministic:
            target = prediction.at(noise_by_member(key, target.shape))
        return ensemble.decode(observation, action, target)

    return model_fn


def noise_by_member(key: chex.PRNGKey, shape: tuple[int, int, int]) -> chex.Array:
    """Draws standard normal numbers [M, B, D], every member its own. Consumes `key`.

    On CPU in a loop over members: XLA would else put the drawing into the computations that the
    sample ends up in, once into each, in loops as short as the last axis. A plan takes 1.2 times as
    long then.
    """
    members, rows, targets = shape

    def draw(key: chex.PRNGKey) -> chex.Array:
        return jax.random.normal(key, (rows * targets,))

    keys = jax.random.split(key, members)
    on_cpu = jax.default_backend() == "cpu"
    return (jax.lax.map(draw, keys) if on_cpu else jax.vmap(draw)(keys)).reshape(shape)


def _make_objective(config: ConfigDict, spec: EnvSpec, ensemble: Ensemble) -> ModelObjective:
    def absent(*arguments: Any) -> Any:
        raise AssertionError("checked with the configuration: the objective needs no policy")

    parts = Parts(ensemble, spec, **dict.fromkeys(Parts._fields[2:], absent))
    return OBJECTIVES[config.model.objective](config, parts)
