"""Double-horizon MBPO: its published constants, what goes with it and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from configs import default, dhmbpo
from errors import UserError
from experiment import configuration, fields
from models.mlp import PRODUCTS

HOPPER = "Hopper-v4"


def resolve(env=HOPPER, **values):
    config = default.get_config(env)
    config.algo = "dhmbpo"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return configuration.resolve(config)


def valid(env=HOPPER, **values):
    config = resolve(env, **values)
    configuration.validate(config)
    return config


def problems(env=HOPPER, **values):
    with pytest.raises(UserError) as error:
        configuration.validate(resolve(env, **values))
    return str(error.value)


def values_of(config, names):
    return {name: fields.get(config, name) for name in names}


# --- constants -----------------------------------------------------------------------------------

# Kubo et al. 2025 and its code, per 1,000 environment steps where it says so there.
PUBLISHED = {
    "discount": 0.995,
    "initial_steps": 5_000,
    "updates_per_step": 1,
    "sac.batch_size": 256,
    "sac.hidden_width": 256,
    "sac.hidden_depth": 3,
    "sac.num_critics": 5,
    "sac.policy_learning_rate": 3e-4,
    "sac.critic_learning_rate": 3e-4,
    "sac.temperature_learning_rate": 3e-4,
    "sac.max_grad_norm": 0.0,
    "sac.target_update_rate": 0.005,
    "sac.learn_temperature": True,
    "sac.initial_temperature": 0.1,
    "model.num_members": 8,
    "model.num_elites": 8,
    "model.hidden_width": 256,
    "model.hidden_depth": 3,
    "model.activation": "silu",
    "model.predict_delta": True,
    "model.normalize_targets": True,
    "model.learning_rate": 1e-3,
    "model.decoupled_decay": True,
    "model.weight_decay": (0.00025, 0.0005, 0.00075, 0.001),
    "model.batch_size": 256,
    "model.first_gradient_steps": 3_000,
    "model.incumbent_competes": True,
    "dhmbpo.horizon": 5,
    "dhmbpo.distribution_horizon": 20,
    "dhmbpo.ring_capacity": 51_200,
}
FIT_STEPS, CRITIC_UPDATES = 1_000, 250  # per 1,000 environment steps
# Ours: a fifth of the arithmetic.
LITE = PUBLISHED | {
    "sac.batch_size": 250,
    "sac.hidden_depth": 2,
    "sac.num_critics": 3,
    "model.num_members": 5,
    "model.num_elites": 5,
    "model.hidden_width": 200,
    "model.first_gradient_steps": 2_000,
}
LITE_FIT_STEPS = 500
STARTS = 2_560  # of distribution rollouts per refresh, lite
# Ours in both: better or steadier in a first comparison, not established in the published one.
OWN = {
    "sac.layer_norm": True,
    "model.layer_norm": True,
    "model.dropout": 0.005,
    "model.variance": "holdout",
    "model.permanent_holdout": True,
    "dhmbpo.refreshes_per_reset": 4,
}


@pytest.mark.parametrize(
    ("preset", "expected", "fit_steps"),
    [("dhmbpo_plus", PUBLISHED, FIT_STEPS), ("dhmbpo_lite", LITE, LITE_FIT_STEPS)],
)
def test_constants_are_those_of_the_paper_or_smaller(preset, expected, fit_steps):
    config = valid(preset=preset)
    assert values_of(config, expected | OWN) == expected | OWN
    per_refresh = config.model.train_every / 1_000
    assert config.model.max_gradient_steps == fit_steps * per_refresh
    assert abs(config.dhmbpo.critic_updates - CRITIC_UPDATES * per_refresh) <= 0.5


def test_the_starts_of_a_refresh_are_spread_over_its_updates():
    config = valid()
    updates = config.model.train_every * config.updates_per_step
    rounds = updates / config.dhmbpo.updates_per_rollout
    assert rounds * config.rollout.starts == pytest.approx(STARTS, rel=0.03)


@pytest.mark.parametrize(("env", "actions"), [(HOPPER, 3), ("HalfCheetah-v4", 6)])
def test_the_target_entropy_is_minus_the_number_of_actions(env, actions):
    assert valid(env).sac.target_entropy == -actions


@pytest.mark.parametrize("env", [HOPPER, "Walker2d-v4", "Pendulum-v1", "Pusher-v5", "Ant-v5"])
@pytest.mark.parametrize("preset", [None, "dhmbpo_plus"])
def test_the_configuration_file_is_valid_everywhere(env, preset):
    config = dhmbpo.get_config(env)
    config.preset = preset
    resolved = configuration.resolve(config)
    configuration.validate(resolved)
    assert (resolved.agent, resolved.preset) == ("dhmbpo", preset or "dhmbpo_lite")


@pytest.mark.parametrize("preset", ["dhmbpo_lite", "dhmbpo_plus"])
@pytest.mark.parametrize("algo", ["sac", "mbpo"])
def test_other_agents_can_have_the_sizes_to_be_compared_with(algo, preset):
    own, other = valid(preset=preset), valid(preset=preset, algo=algo)
    names = ["discount", "initial_steps", "total_steps", "updates_per_step", "epoch_length"]
    names += [f"sac.{name}" for name in own.sac]
    assert other.agent == algo
    assert values_of(other, names) == values_of(own, names)
    if algo == "mbpo":
        names = [f"model.{name}" for name in own.model]
        assert values_of(other, names) == values_of(own, names)


@pytest.mark.parametrize("algo", ["vaml", "omd", "cf_mbpo", "mle"])
def test_the_agent_brings_its_preset_to_other_recipes(algo):
    config = valid(algo=algo, agent="dhmbpo")
    assert values_of(config, LITE) == LITE
    assert valid(algo=algo, agent="mbpo").preset == "original"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"sac__batch_size": 256},
            "--config.sac.batch_size=256 cannot be shared equally by model.num_elites=5: use 255.",
        ),
        ({"sac__batch_size": 3}, "model.num_elites=5: use 5."),
        (
            {"rollout__starts": 1_001},
            "--config.rollout.starts=1001 cannot be shared equally by model.num_elites=5: "
            "use 1000 or 1005.",
        ),
        (
            {"dhmbpo__ring_capacity": 2_000, "rollout__starts": 2_560},
            "--config.dhmbpo.ring_capacity=2000 cannot hold what one step of all rollouts adds: "
            "use 2560 or more, or lower --config.rollout.starts=2560.",
        ),
        (
            {"refit__interval": 5},
            "--config.refit.interval=5: double-horizon MBPO does not refit critics within a model "
            "fit. Use --config.refit.interval=0, or --config.agent=mbpo.",
        ),
        (
            {"model__sl_noise": 0.01},
            "--config.model.sl_noise=0.01: double-horizon MBPO fits its model to clean "
            "observations. Use --config.model.sl_noise=0, or --config.agent=mbpo.",
        ),
        (
            {"flow__rule": "weight", "rollout__filter": "flow_discriminator"},
            "--config.flow.rule=weight: double-horizon MBPO learns from states, which have no "
            "weights. Use --config.flow.rule=filter or plan, or --config.agent=mbpo.",
        ),
        ({"flow__rule": "weight", "algo": "cf_mbpo", "agent": "dhmbpo"}, "flow.rule=weight:"),
        ({"dhmbpo__updates_per_rollout": 0}, "updates_per_rollout=0 is too small: use 1 or more."),
        ({"dhmbpo__horizon": 0}, "--config.dhmbpo.horizon=0 is too small: use 1 or more."),
        ({"dhmbpo__early_share": 1.0}, "--config.dhmbpo.early_share=1.0 is not a ratio in [0, 1)"),
        ({"model__variance": "heads"}, "Did you mean head? Allowed: head, constant, holdout."),
        ({"precision": "float16"}, "Did you mean bfloat16? Allowed: float32, bfloat16, auto."),
    ],
    ids=str,
)
def test_a_mistake_is_reported_once_with_its_fix(values, expected):
    message = problems(**values)
    assert "problems in the configuration" not in message
    assert expected in message


def test_the_published_batch_goes_with_the_published_ensemble():
    assert valid(preset="dhmbpo_plus").sac.batch_size == 256
    assert "use 252." in problems(model__num_members=7, model__num_elites=7, sac__batch_size=256)


def test_actions_have_to_be_continuous():
    message = problems("CartPole-v1")
    assert "has discrete actions, which --config.agent=dhmbpo cannot take" in message
    assert valid("CartPole-v1", agent="dyna").agent == "dyna"


@pytest.mark.parametrize("preset", ["original", "mbrl_lib"])
def test_presets_of_mbpo_say_what_to_type(preset):
    assert "use 255." in problems(preset=preset)
    valid(preset=preset, sac__batch_size=255, rollout__starts=50_000)


@pytest.mark.parametrize(
    "values",
    [
        {"flow__rule": "weight"},  # no flows
        {"flow__rule": "weight", "rollout__filter": "flow_reward"},  # they keep everything
        {"flow__rule": "plan", "rollout__filter": "flow_both"},
        {"rollout__schedule": (3,), "rollout__retain_steps": 0, "refit__starts": 3},
        {"update_every": 7, "sac__policy_update_every": 0, "sac__target_update_every": 0},
        {"dhmbpo__ring_capacity": 2_560, "rollout__starts": 2_560},
        {"agent": "mbpo", "refit__interval": 5, "model__sl_noise": 0.01, "sac__batch_size": 256},
        {"algo": "sac", "dhmbpo__horizon": 0, "dhmbpo__ring_capacity": 1},
    ],
    ids=str,
)
def test_fields_that_mean_nothing_are_not_checked(values):
    valid(**values)


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
@pytest.mark.parametrize(
    "values",
    [
        {"algo": "omd"},
        {"algo": "omd", "agent": "mbpo"},
        {"model__objective": "omd"},
        {"algo": "omd", "omd__inverse": "cg"},
    ],
    ids=str,
)
def test_hypergradients_need_products_in_float32(values, precision):
    message = problems(**values, precision=precision)
    assert f"--config.precision={precision}: model.objective=omd takes derivatives" in message
    assert "Use --config.precision=float32." in message
    valid(**values)


@pytest.mark.parametrize("algo", ["dhmbpo", "sac", "mbpo", "mle", "vagram", "cf_mbpo", "pets"])
def test_others_may_have_bfloat16(algo):
    valid(algo=algo, precision="bfloat16")
    valid(algo=algo, precision="auto")


def test_products_in_bfloat16_have_a_gradient_and_no_derivative_of_it():
    # as soon as they have one, the refusal above can go
    arguments = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4)
    jax.grad(lambda *args: PRODUCTS["bfloat16"](*args).sum())(*arguments)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(PRODUCTS["bfloat16"], arguments, arguments)
