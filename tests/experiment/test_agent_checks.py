"""Agents and recipes: what goes together, the constants that come with it, and what is refused."""

import jax
import pytest

from agents import sac, soft_q
from agents.recipes import RECIPES
from configs import default, nikishin2022, omd_cartpole
from envs import registry
from errors import UserError
from experiment import agent_checks, configuration, fields

CARTPOLE, CHEETAH = "CartPole-v1", "HalfCheetah-v5"


def given(env=CHEETAH, **values):
    config = default.get_config(env)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


def resolved(env=CHEETAH, **values):
    config = configuration.resolve(given(env, **values))
    configuration.validate(config)
    return config


def problems(env=CHEETAH, **values):
    with pytest.raises(UserError) as error:
        configuration.validate(configuration.resolve(given(env, **values)))
    return str(error.value)


# --- constants -----------------------------------------------------------------------------------

# What both experiments of Nikishin et al. 2022 share.
COMMON = {
    "updates_per_step": 1,
    "discount": 0.99,
    "eval_episodes": 10,
    "sac.batch_size": 256,
    "sac.hidden_depth": 2,
    "sac.num_critics": 2,
    "sac.layer_norm": False,
    "sac.critic_learning_rate": 3e-4,
    "sac.max_grad_norm": 0.0,
    "sac.target_update_every": 1,
    "model.objective": "omd",
    "model.num_members": 1,
    "model.hidden_depth": 2,
    "model.activation": "relu",
    "model.initializer": "orthogonal",
    "model.weight_decay": (0.0,),
    "model.max_grad_norm": 0.0,
    "model.predict_delta": False,
    "model.learn_reward": True,
    "rollout.deterministic": True,
    "omd.inverse": "identity",
    "omd.cg_steps": 100,
    "omd.damping": 1e-5,
    "omd.inner_steps": 1,
    "omd.fresh_critics": False,
}
PUBLISHED = {
    CARTPOLE: COMMON
    | {
        "total_steps": 200_000,
        "replay_capacity": 200_000,
        "initial_steps": 1_000,
        "epoch_length": 1_000,
        "soft_q.temperature": 0.01,
        "soft_q.exploration": 0.1,
        "soft_q.evaluate_greedily": False,
        "sac.hidden_width": 32,
        "sac.target_update_rate": 0.01,
        "model.hidden_width": 32,
        "model.learning_rate": 1e-3,
        "model.separate_reward": True,
        "omd.fresh_optimizer": True,
        "omd.fresh_batch": True,
    },
    CHEETAH: COMMON
    | {
        "total_steps": 1_000_000,
        "replay_capacity": 1_000_000,
        "initial_steps": 10_000,
        "epoch_length": 5_000,
        "sac.hidden_width": 256,
        "sac.policy_learning_rate": 3e-4,
        "sac.temperature_learning_rate": 3e-4,
        "sac.target_update_rate": 0.005,
        "sac.learn_temperature": True,
        "sac.initial_temperature": 1.0,
        "sac.target_entropy": -3.0,
        "sac.policy_update_every": 1,
        "sac.explore_greedily": False,
        "model.hidden_width": 64,
        "model.learning_rate": 3e-4,
        "model.head_scale": 1.0,
        "model.separate_reward": False,
        "omd.fresh_optimizer": False,
        "omd.fresh_batch": False,
    },
}


@pytest.mark.parametrize("env", PUBLISHED)
@pytest.mark.parametrize("algo", ["omd", "mle"])
def test_one_step_agents_get_the_constants_of_the_paper(env, algo):
    config = resolved(env, algo=algo)
    expected = PUBLISHED[env] | {"model.objective": {"omd": "omd", "mle": "mse"}[algo]}
    assert {name: fields.get(config, name) for name in expected} == expected


def test_the_last_layer_of_the_model_of_cartpole_has_a_gain_of_a_hundredth():
    assert resolved(CARTPOLE, algo="omd").model.head_scale * 2.0**0.5 == pytest.approx(0.01)


@pytest.mark.parametrize("table", [nikishin2022.CONTINUOUS, nikishin2022.DISCRETE])
def test_constants_have_the_types_of_the_schema(table):
    config = default.get_config()
    config.update_from_flattened_dict(table)
    for name, value in table.items():
        assert fields.get(config, name) == value
        assert type(fields.get(config, name)) is type(value)


@pytest.mark.parametrize("env", [CARTPOLE, f"{CARTPOLE}+noise128"])
@pytest.mark.parametrize("algo", ["omd", "mle", "vep"])
def test_the_configuration_of_cartpole_serves_every_model_loss(env, algo):
    config = omd_cartpole.get_config(env)
    config.algo = algo
    config = configuration.resolve(config)
    configuration.validate(config)
    assert (config.agent, config.num_seeds, config.env_on_device) == ("dyna", 10, True)


# --- agents and recipes --------------------------------------------------------------------------


@pytest.mark.parametrize("algo", RECIPES)
def test_a_recipe_names_its_agent(algo):
    others = {"omd": "dyna", "mle": "dyna", "sac": "sac", "mpc": "mpc", "pets": "mpc"}
    others["dhmbpo"] = "dhmbpo"
    assert resolved("Hopper-v5", algo=algo).agent == others.get(algo, "mbpo")


def test_omd_can_train_the_models_of_mbpo():
    config = resolved("Hopper-v5", algo="omd", agent="mbpo")
    usual = resolved("Hopper-v5", algo="mbpo")
    assert config.model.objective == "omd"
    assert config.model.validation == "objective"
    assert config.rollout.deterministic
    assert config.sac == usual.sac
    for name in ("updates_per_step", "total_steps", "model.num_members", "model.activation"):
        assert fields.get(config, name) == fields.get(usual, name)
    assert config.rollout.filter == usual.rollout.filter == "none"


def test_a_one_step_agent_can_have_the_model_loss_of_mbpo():
    config = resolved("Hopper-v5", algo="mbpo", agent="dyna")
    assert (config.model.objective, config.model.num_members) == ("mle", 1)
    assert not config.rollout.deterministic
    assert config.sac.target_entropy == -1.5  # half the number of actions
    assert config.rollout.filter is None


def test_a_likelihood_beside_the_hypergradient_trains_a_variance_that_is_sampled():
    assert resolved(algo="omd").rollout.deterministic
    assert not resolved(algo="omd", objective__mle_weight=0.1).rollout.deterministic


def test_given_values_win_over_those_of_the_paper():
    values = {"total_steps": 50_000, "model__num_members": 4, "sac__target_entropy": -6.0}
    config = resolved(algo="omd", **values)
    assert {k: fields.get(config, k.replace("__", ".")) for k in values} == values


@pytest.mark.parametrize("preset", ["mbrl_lib", "dhmbpo_lite"])
def test_the_constants_of_the_paper_win_over_those_of_the_preset(preset):
    config = resolved(CHEETAH, algo="omd", preset=preset)
    expected = PUBLISHED[CHEETAH] | {"model.layer_norm": False, "model.normalize_targets": False}
    assert {name: fields.get(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (CARTPOLE, True),
        (f"{CARTPOLE}+noise8", True),
        (f"{CARTPOLE}+linear8", False),
        ("InvertedPendulum-v5", False),
    ],
)
def test_an_environment_is_on_the_device_where_it_can_be(env, expected):
    assert resolved(env, algo="omd").env_on_device is expected
    assert resolved(env, algo="omd", env_on_device=False).env_on_device is False


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "values", "expected"),
    [
        (CARTPOLE, {"algo": "sac"}, ["discrete actions, which --config.agent=sac"]),
        (
            CARTPOLE,
            {"algo": "mbpo"},
            ["CartPole-v1 has discrete actions", "omd_cartpole.py, or --config.agent=dyna"],
        ),
        (CHEETAH, {"algo": "cf_mbpo", "agent": "dyna"}, ["no rollouts", "--config.agent=mbpo"]),
        (
            CHEETAH,
            {"algo": "omd", "agent": "sac"},
            ["agent=sac does not go with --config.algo=omd: use --config.algo=sac for no model"],
        ),
        (
            CHEETAH,
            {"algo": "sac", "agent": "dyna"},
            ["agent=dyna does not go with --config.algo=sac: leave it out"],
        ),
        (CHEETAH, {"algo": "sac", "agent": "dina"}, ["Did you mean dyna?", "sac, mbpo, dhmbpo"]),
        (CHEETAH, {"algo": "omd", "agent": "mpbo"}, ["Did you mean mbpo?"]),
        (
            CHEETAH,
            {"algo": "mle", "model__normalize_targets": True},
            ["a one-step agent never fits normalisers"],
        ),
        (
            CHEETAH,
            {"algo": "omd", "model__variance": "holdout"},
            ["model.variance=holdout: a one-step agent holds no rows out", "head or constant"],
        ),
        (
            CHEETAH,
            {"algo": "vep", "agent": "dyna", "objective__vep_functions": "critics"},
            ["of which a one-step agent has none: use random or networks"],
        ),
        (CHEETAH, {"algo": "vep", "objective__vep_form": "both"}, ["Allowed: backup, separate."]),
        (
            CHEETAH,
            {"algo": "omd", "omd__inverse": "exakt"},
            ["Did you mean exact?", "identity, neumann, cg, exact"],
        ),
        (
            CHEETAH,
            {"algo": "omd", "model__num_members": 3},
            ["--config.sac.batch_size=256", "model.num_members=3: use 255."],
        ),
        (CHEETAH, {"algo": "mle", "model__num_members": 300}, ["use 300."]),
        (CHEETAH, {"env_on_device": True}, ["dynamics as JAX functions", "env_on_device=false"]),
        (
            f"{CARTPOLE}+linear4",
            {"algo": "omd", "env_on_device": True},
            ["CartPole-v1+linear4 has none registered"],
        ),
        (
            CHEETAH,
            {"sac__target_update_rate": 0.0},
            ["sac.target_update_rate=0.0 is not in (0, 1]"],
        ),
        (CHEETAH, {"algo": "omd", "model__weight_decay": (0.0, 0.1)}, ["2 values for 3 layers"]),
        (CHEETAH, {"algo": "omd", "omd__neumann_terms": 0}, ["neumann_terms=0", "use 1 or more"]),
        (CHEETAH, {"algo": "omd", "omd__cg_steps": 0}, ["cg_steps=0", "use 1 or more"]),
        (CHEETAH, {"algo": "omd", "omd__inner_steps": 0}, ["inner_steps=0", "use 1 or more"]),
        (CHEETAH, {"algo": "mle", "omd__diagnose_every": -1}, ["use 0 or more"]),
        (CHEETAH, {"algo": "omd", "omd__cg_tolerance": 0.0}, ["has to be a positive number"]),
        (CHEETAH, {"algo": "omd", "omd__neumann_step": -0.1}, ["has to be a positive number"]),
        (CHEETAH, {"algo": "omd", "omd__damping": -1e-9}, ["has to be zero or positive"]),
        (CHEETAH, {"model__head_scale": 0.0}, ["has to be a positive number"]),
        (CHEETAH, {"model__activation": "elu"}, ["Allowed: silu, relu, tanh."]),
        (CHEETAH, {"model__initializer": "ortogonal"}, ["Did you mean orthogonal?"]),
        (CARTPOLE, {"algo": "omd", "soft_q__temperature": -0.1}, ["zero or positive"]),
        (CARTPOLE, {"algo": "omd", "soft_q__exploration": 1.0}, ["not a ratio in [0, 1)"]),
        (
            CARTPOLE,
            {"algo": "vaml", "agent": "dyna", "objective__critic": "second"},
            ["--config.objective.critic=second is unknown"],
        ),
    ],
    ids=str,
)
def test_a_mistake_is_reported_once_with_its_fix(env, values, expected):
    message = problems(env, **values)
    assert "problems in the configuration" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    "values",
    [
        {"algo": "omd", "rollout__starts": 3, "rollout__schedule": (3,), "refit__starts": 0},
        {"algo": "mbpo", "omd__inverse": "none", "omd__cg_steps": 0, "soft_q__temperature": -1.0},
        {"algo": "sac", "omd__inverse": "both", "model__activation": "elu"},
        {"algo": "mle", "model__batch_size": 0, "model__num_elites": 9, "model__patience": -1},
        {"algo": "vaml", "agent": "dyna", "refit__interval": 5, "refit__starts": 1001},
    ],
    ids=str,
)
def test_fields_that_mean_nothing_are_not_checked(values):
    resolved(CHEETAH, **values)


# --- the Hessian that is formed ------------------------------------------------------------------


@pytest.mark.parametrize("env", [CARTPOLE, "InvertedPendulum-v5"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"sac__hidden_width": 32},
        {"sac__hidden_width": 5, "sac__hidden_depth": 3, "sac__num_critics": 3},
        {"sac__hidden_width": 4, "sac__hidden_depth": 1, "sac__layer_norm": True},
    ],
    ids=str,
)
def test_critic_parameters_are_counted(env, sizes):
    config, spec = resolved(env, algo="omd", **sizes), registry.spec(env)
    make = soft_q.make_learner if spec.discrete else sac.make_learner
    state = jax.eval_shape(make(config, spec).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.critics))
    assert agent_checks.count_critic_parameters(config, spec) == count


def test_a_hessian_is_formed_for_small_critics_alone():
    config = resolved(CARTPOLE, algo="omd", omd__inverse="exact")
    assert agent_checks.count_critic_parameters(config, registry.spec(CARTPOLE)) == 2_564
    message = problems(CHEETAH, algo="omd", omd__inverse="exact")
    # two critics of 23 * 256 + 256 + 256 * 256 + 256 + 256 + 1 numbers
    for part in ("144386 critic parameters", "83.4 GB", "--config.omd.inverse=cg", "4096"):
        assert part in message
    problems("Hopper-v5", algo="omd", agent="mbpo", omd__inverse="exact")
    for other in ({"algo": "mle"}, {"algo": "mbpo"}, {"algo": "omd", "sac__hidden_width": 16}):
        resolved(CHEETAH, **other, omd__inverse="exact")


def test_sizes_that_make_no_sense_are_reported_once():
    message = problems(CHEETAH, algo="omd", omd__inverse="exact", sac__hidden_width=0)
    assert "problems in the configuration" not in message
