"""Every field of the configuration reaches the compiled programs, or is the driver's alone."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import pytest

import envs
from agents.registry import make_agent
from configs import default
from experiment.fields import ALIASES, uses
from replay import example_transition
from tests.integration import tiny

ENV = "InvertedPendulum-v5"
DRIVER_ONLY = {
    "algo": "chooses the agent",
    "agent": "chooses the agent",
    "env": "chooses the spec and the environment's constants",
    "env_on_device": "where to step the environment",
    "preset": "chooses constants",
    "seed": "an argument of init",
    "num_seeds": "the axis that experiment.seeds adds",
    "epoch_length": "when to evaluate",
    "eval_episodes": "how to evaluate",
    "eval_untrained": "when to evaluate",
    "checkpoint.every_epochs": "when to save",
    "logging.tensorboard": "where to write",
    "logging.wandb": "where to write",
    "logging.wandb_project": "where to write",
    **dict.fromkeys(ALIASES, "copied to the field it stands for"),
    "model_loss_type": "copied to model.objective",
    "va_norm": "copied to model.objective",
}
OTHER = {
    "total_steps": 700,
    "initial_steps": 100,
    "updates_per_step": 3,
    "update_every": 2,
    "discount": 0.9,
    "replay_capacity": 333,
    "precision": "bfloat16",
    "sac.batch_size": 24,
    "sac.hidden_width": 9,
    "sac.hidden_depth": 3,
    "sac.layer_norm": True,
    "sac.num_critics": 3,
    "sac.learning_rate": 1e-2,
    "sac.critic_learning_rate": 1e-2,
    "sac.policy_learning_rate": 1e-2,
    "sac.temperature_learning_rate": 1e-2,
    "sac.max_grad_norm": 0.5,
    "sac.policy_update_every": 2,
    "sac.target_update_rate": 0.1,
    "sac.target_update_every": 7,
    "sac.learn_temperature": False,
    "sac.initial_temperature": 0.3,
    "sac.target_entropy": -3.0,
    "sac.explore_greedily": True,
    "model.num_members": 4,
    "model.num_elites": 1,
    "model.hidden_width": 9,
    "model.hidden_depth": 1,
    "model.layer_norm": True,
    "model.dropout": 0.25,
    "model.variance": "constant",
    "model.activation": "relu",
    "model.initializer": "orthogonal",
    "model.head_scale": 0.5,
    "model.separate_reward": True,
    "model.learning_rate": 1e-2,
    "model.averaging": 0.5,
    "model.weight_decay": (1e-2,),
    "model.decoupled_decay": True,
    "model.batch_size": 24,
    "model.train_every": 25,
    "model.learn_variance_bounds": False,
    "model.predict_delta": False,
    "model.learn_reward": False,
    "model.normalize_targets": True,
    "model.bootstrap": False,
    "model.holdout_ratio": 0.5,
    "model.holdout_max": 30,
    "model.permanent_holdout": True,
    "model.improvement_threshold": 0.5,
    "model.patience": 2,
    "model.incumbent_competes": True,
    "model.max_gradient_steps": 10,
    "model.first_gradient_steps": 30,
    "model.max_grad_norm": 0.5,
    "model.validation": "objective",
    "model.max_epochs": 3,
    "model.keep": "last",
    "model.sl_noise": 0.01,
    "model.freeze_constant": True,
    "model.objective": "mse",
    "rollout.starts": 40,
    "rollout.schedule": (10, 20, 1, 5),
    "rollout.retain_steps": 300,
    "rollout.deterministic": True,
    "rollout.real_ratio": 0.75,
}
OTHER_OBJECTIVE = {
    "objective.critic": "mean",
    "objective.action": "sample",
    "objective.num_model_samples": 2,
    "objective.mask_terminal": False,
    "objective.include_entropy": True,
    "objective.include_discount": False,
    "objective.reduction": "sum",
    "objective.value_weight": 3.0,
    "objective.mle_weight": 0.5,
    "objective.gradient_quantile": 0.5,
    "objective.vagram_form": "taylor",
    "objective.vep_form": "separate",
    "objective.vep_functions": "critics",
    "objective.vep_count": 2,
    "refit.interval": 3,
    "refit.starts": 4,
    "refit.updates": 2,
}
# What a field needs besides, to matter.
NEEDS = {
    "objective.include_entropy": {"objective.action": "sample"},
    "objective.gradient_quantile": {"model.objective": "vagram"},
    "objective.vagram_form": {"model.objective": "vagram"},
    "objective.vep_form": {"model.objective": "vep"},
    "objective.vep_functions": {"model.objective": "vep"},
    "objective.vep_count": {"model.objective": "vep"},
    "refit.starts": {"refit.interval": 5},
    "refit.updates": {"refit.interval": 5},
}
OTHER_FLOW = {
    "use_algo": "reward",
    "rollout.filter": "flow_discriminator",
    "flow.inputs": "sas",
    "flow.conditional": True,
    "flow.horizon": 2,
    "flow.num_starts": 40,
    "flow.recency": 100,
    "flow.kind": "spline",
    "flow.num_layers": 3,
    "flow.hidden_width": 9,
    "flow.hidden_depth": 1,
    "flow.squash": (1.0, 1.0),
    "flow.score_form": "tanh",
    "flow.score_cap": 5.0,
    "flow.dv_weight": 0.5,
    "flow.nll_weight": 0.5,
    "flow.smoothing": 0.2,
    "flow.smoothing_form": "multiplicative",
    "flow.warmup_steps": (2, 4),
    "flow.warmup_learning_rate": 1e-2,
    "flow.learning_rate": 1e-4,
    "flow.num_steps": 3,
    "flow.batch_size": 24,
    "flow.discount": 0.9,
    "flow.rule": "weight",
    "flow.min_kept": 0.7,
    "flow.min_divergence": 0.1,
    "flow.max_weight": 3.0,
    "flow.num_candidates": 2,
    "flow.lookahead": 2,
    "flow.estimator": "score",
    "flow.rl_weight": 3.0,
    "flow.mle_weight": 2.0,
    "flow.refine_steps": 3,
    "flow.refine_starts": 8,
    "flow.refine_learning_rate": 1e-4,
    "flow.flow_steps_per_refinement": 2,
    "flow.gate_tolerance": 0.1,
}
OTHER_ONE_STEP = {
    "soft_q.temperature": 0.5,
    "soft_q.exploration": 0.3,
    "soft_q.evaluate_greedily": True,
    "omd.inverse": "exact",
    "omd.cg_steps": 7,
    "omd.cg_tolerance": 1e-3,
    "omd.damping": 0.1,
    "omd.neumann_terms": 3,
    "omd.neumann_step": 0.5,
    "omd.inner_steps": 2,
    "omd.fresh_optimizer": False,
    "omd.fresh_critics": True,
    "omd.fresh_batch": False,
    "omd.diagnose_every": 0,
}
OTHER_PLANNER = {
    "planner.name": "mppi",
    "planner.horizon": 3,
    "planner.num_candidates": 30,
    "planner.num_iterations": 3,
    "planner.num_elites": 4,
    "planner.smoothing": 0.5,
    "planner.sampler": "truncated",
    "planner.warm_start": True,
    "planner.execute_best": True,
    "planner.noise_beta": 1.0,
    "planner.decay": 1.5,
    "planner.kept_fraction": 0.7,
    "planner.gamma": 0.5,
    "planner.sigma": 0.5,
    "planner.beta": 0.5,
    "planner.propagation": "ts1",
    "planner.num_particles": 2,
    "planner.ignore_termination": False,
}
OTHER_DOUBLE_HORIZON = {
    "dhmbpo.horizon": 1,
    "dhmbpo.distribution_horizon": 3,
    "dhmbpo.ring_capacity": 100,
    "dhmbpo.updates_per_rollout": 7,
    "dhmbpo.critic_updates": 3,
    "dhmbpo.refreshes_per_reset": 3,
    "dhmbpo.early_share": 0.1,
    "dhmbpo.early_steps": 7,
}
NEEDS |= {"dhmbpo.early_steps": {"dhmbpo.early_share": 0.2}}
NEEDS |= {
    "planner.gamma": {"planner.name": "mppi"},
    "planner.sigma": {"planner.name": "mppi"},
    "planner.beta": {"planner.name": "mppi"},
    "planner.noise_beta": {"planner.name": "icem"},
    "planner.decay": {"planner.name": "icem"},
    "planner.kept_fraction": {"planner.name": "icem"},
}
NEEDS |= {
    "omd.neumann_terms": {"omd.inverse": "neumann"},
    "omd.neumann_step": {"omd.inverse": "neumann"},
    "omd.fresh_batch": {"model.objective": "mse"},
}
# The rule under which a field matters, if not under the default.
RULE = {"flow.num_candidates": "plan", "flow.lookahead": "plan"}


def fields(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def make(algo, changes, env=ENV):
    """Returns the agent with some fields changed, and the shapes of its state."""
    config = tiny.config(algo, env, **{name.replace(".", "__"): v for name, v in changes.items()})
    agent = make_agent(config, envs.spec(env))
    return agent, jax.eval_shape(agent.init, jax.random.key(0))


def fingerprint(**changes):
    """Returns a hash of all programs of the MBPO agent, with the constants they close over."""
    agent, state = make("mbpo", changes)
    observation = jnp.zeros(4)
    programs = [
        jax.make_jaxpr(agent.init)(jax.random.key(0)),
        *(jax.make_jaxpr(stage.run)(state) for stage in agent.refresh),
        jax.make_jaxpr(agent.step)(state, example_transition(4, 1), observation),
    ]
    text = "".join(f"{program} {program.consts}" for program in programs) + str(agent.refresh_every)
    return hashlib.sha256(text.encode()).hexdigest()


def flow_programs(**changes):
    """Yields the programs of the CFG-MBPO agent that contain flows, those soonest traced first."""
    agent, state = make("cf_mbpo", changes)
    stages = {stage.name: stage.run for stage in agent.refresh}
    for function, argument in (
        (agent.init, jax.random.key(0)),
        (stages["rollouts"], state),
        (stages["flows"], state),
    ):
        program = jax.make_jaxpr(function)(argument)
        yield f"{program} {program.consts}"


@functools.cache
def unchanged_flow_programs(rule):
    first, second = (list(flow_programs(**{"flow.rule": rule})) for _ in range(2))
    assert first == second, "the programs of one configuration do not read the same twice"
    return first


@pytest.fixture(scope="module")
def unchanged():
    first = fingerprint()
    assert first == fingerprint(), "the fingerprint of one configuration is not stable"
    return first


def test_every_field_is_in_one_of_the_two_lists():
    assert sorted(fields(default.get_config())) == sorted(
        DRIVER_ONLY
        | OTHER
        | OTHER_OBJECTIVE
        | OTHER_ONE_STEP
        | OTHER_FLOW
        | OTHER_PLANNER
        | OTHER_DOUBLE_HORIZON
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_changing_a_field_changes_a_compiled_program(unchanged, name):
    assert fingerprint(**{name: OTHER[name]}) != unchanged


def fit_program(**changes):
    """Returns the model fit of a value-aware agent."""
    agent, state = make("vaml", changes)
    fit = next(stage.run for stage in agent.refresh if stage.name == "model")
    program = jax.make_jaxpr(fit)(state)
    return f"{program} {program.consts}"


@functools.cache
def unchanged_fit(*needs):
    return fit_program(**dict(needs))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_OBJECTIVE)
def test_changing_a_field_of_the_objective_changes_the_fit(name):
    needs = NEEDS.get(name, {})
    assert unchanged_fit(*needs.items()) != fit_program(**needs, **{name: OTHER_OBJECTIVE[name]})


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_FLOW)
def test_changing_a_field_of_the_flows_changes_a_compiled_program(name):
    rule = RULE.get(name, "filter")
    changed = flow_programs(**{"flow.rule": rule, name: OTHER_FLOW[name]})
    pairs = zip(changed, unchanged_flow_programs(rule), strict=False)
    assert any(now != before for now, before in pairs)  # stops tracing at the first difference


def one_step_programs(**changes):
    """Yields the programs of a one-step agent with discrete actions."""
    agent, state = make("omd", {"model.num_members": 1, **changes}, "CartPole-v1")
    yield str(agent.refresh_every)
    policy = jax.eval_shape(agent.policy, state)
    yield str(jax.make_jaxpr(agent.act)(policy, (), jnp.zeros((2, 4))))
    for stage in agent.refresh:
        yield str(jax.make_jaxpr(stage.run)(state))
    yield str(jax.make_jaxpr(agent.step)(state, example_transition(4, 2), jnp.zeros(4)))


@functools.cache
def unchanged_one_step_programs(*needs):
    first, second = (list(one_step_programs(**dict(needs))) for _ in range(2))
    assert first == second, "the programs of one configuration do not read the same twice"
    return first


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_ONE_STEP)
def test_changing_a_field_of_one_step_agents_changes_a_compiled_program(name):
    needs = NEEDS.get(name, {})
    changed = one_step_programs(**needs, **{name: OTHER_ONE_STEP[name]})
    pairs = zip(changed, unchanged_one_step_programs(*needs.items()), strict=False)
    assert any(now != before for now, before in pairs)


def step_of_planner(**changes):
    """Returns the step of a planning agent."""
    sizes = {"planner.name": "cem", "planner.num_candidates": 20, "planner.horizon": 4}
    agent, state = make("mpc", sizes | changes)
    program = jax.make_jaxpr(agent.step)(state, example_transition(4, 1), jnp.zeros(4))
    return f"{program} {program.consts}"


@functools.cache
def unchanged_step_of_planner(*needs):
    return step_of_planner(**dict(needs))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_PLANNER)
def test_changing_a_field_of_the_planner_changes_its_program(name):
    needs = NEEDS.get(name, {})
    changed = step_of_planner(**needs, **{name: OTHER_PLANNER[name]})
    assert unchanged_step_of_planner(*needs.items()) != changed


DOUBLE_HORIZON = {"preset": "original", "dhmbpo.horizon": 2, "dhmbpo.ring_capacity": 200}


def double_horizon_programs(**changes):
    """Yields the programs of double-horizon MBPO."""
    agent, state = make("dhmbpo", DOUBLE_HORIZON | changes)
    yield str(agent.refresh_every)
    yield str(state)
    transition = example_transition(4, 1)
    for function, arguments in (
        *((stage.run, (state,)) for stage in reversed(agent.refresh)),
        (agent.step, (state, transition, jnp.zeros(4))),
        (agent.init, (jax.random.key(0),)),
    ):
        program = jax.make_jaxpr(function)(*arguments)
        yield f"{program} {program.consts}"


@functools.cache
def unchanged_double_horizon_programs(*needs):
    first, second = (list(double_horizon_programs(**dict(needs))) for _ in range(2))
    assert first == second, "the programs of one configuration do not read the same twice"
    return first


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER | OTHER_DOUBLE_HORIZON)
def test_a_field_changes_a_program_of_double_horizon_mbpo_if_it_is_said_to_matter(name):
    needs = NEEDS.get(name, {})
    changes = {**needs, name: (OTHER | OTHER_DOUBLE_HORIZON)[name]}
    pairs = zip(
        double_horizon_programs(**changes),
        unchanged_double_horizon_programs(*needs.items()),
        strict=False,
    )
    config = tiny.config("dhmbpo", ENV)
    assert any(now != before for now, before in pairs) == uses(config, name)
