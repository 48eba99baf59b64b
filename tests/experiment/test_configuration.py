import copy

import pytest
from ml_collections import ConfigDict

from agents.recipes import RECIPES
from configs import (
    cf_mbpo,
    cs285_mbpo,
    cs285_mpc,
    default,
    environments,
    mbpo,
    pets,
    sac,
    value_aware,
)
from envs import registry
from errors import UserError
from experiment import checks, configuration, fields


def given(env="Hopper-v5", **values):
    """The default configuration with dotted fields, written `block__field`, set to `values`."""
    config = default.get_config(env)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


def problems(**values):
    with pytest.raises(UserError) as error:
        configuration.validate(configuration.resolve(given(**values)))
    return str(error.value)


def test_hopper_gets_the_constants_of_the_paper():
    config = configuration.resolve(given("Hopper-v5"))
    assert config.total_steps == config.replay_capacity == 125_000
    assert (config.initial_steps, config.epoch_length, config.updates_per_step) == (5000, 1000, 20)
    assert (config.model.objective, config.rollout.filter) == ("mle", "none")
    assert config.model.weight_decay == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    assert config.model.hidden_width == 200
    assert config.rollout.schedule == (20_000, 150_000, 1, 15)
    assert config.rollout.real_ratio == 0.05
    assert config.rollout.starts == 100_000
    assert config.sac.target_entropy == -1.0
    assert config.sac.learn_temperature


def test_hopper_gets_the_constants_of_mbrl_lib():
    config = configuration.resolve(given("Hopper-v4", preset="mbrl_lib"))
    assert (config.updates_per_step, config.sac.hidden_width) == (40, 512)
    assert config.sac.target_update_every == 4
    assert (config.sac.learn_temperature, config.sac.initial_temperature) == (False, 0.2)
    assert config.sac.target_entropy == -3.0  # nothing published: minus the number of actions
    assert config.model.weight_decay == (1e-5,)
    assert config.rollout.schedule == (19_000, 149_000, 1, 15)
    assert config.rollout.real_ratio == 0.0


def test_humanoid_keeps_model_transitions_for_five_epochs():
    config = configuration.resolve(given("HumanoidTruncated-v5"))
    assert (config.model.hidden_width, config.model.train_every) == (400, 1000)
    assert config.rollout.retain_steps == 5_000


def test_a_given_value_wins_over_recipe_preset_and_environment():
    config = configuration.resolve(
        given(updates_per_step=3, model__learning_rate=0.5, sac__target_entropy=-7.0, algo="sac")
    )
    assert (config.updates_per_step, config.model.learning_rate) == (3, 0.5)
    assert config.sac.target_entropy == -7.0


def test_the_recipe_comes_before_the_environment():
    config = configuration.resolve(given(algo="sac"))
    assert config.updates_per_step == 1
    assert config.total_steps == 125_000
    assert config.model.objective is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "flow_both"),
        ({"use_algo": "both"}, "flow_both"),
        ({"use_algo": "discriminator"}, "flow_discriminator"),
        ({"use_algo": "reward"}, "flow_reward"),
        ({"use_algo": "mbpo"}, "none"),
        ({"use_algo": "reward", "rollout__filter": "flow_reward"}, "flow_reward"),
    ],
)
def test_use_algo_chooses_the_rollout_filter_of_cf_mbpo(values, expected):
    config = configuration.resolve(given(algo="cf_mbpo", **values))
    configuration.validate(config)
    assert config.use_algo == values.get("use_algo", "both")
    assert config.rollout.filter == expected
    assert config.model.objective == "mle"


def test_a_filter_that_contradicts_use_algo_is_refused():
    config = configuration.resolve(given(algo="cf_mbpo", rollout__filter="none"))
    with pytest.raises(UserError, match=r"rollout\.filter=none contradicts .*use_algo=both"):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 30.0),
        ({"flow__estimator": "path"}, 30.0),
        ({"flow__estimator": "score"}, 30.0),
        ({"flow__estimator": "ac"}, 2.5),
        ({"flow__estimator": "ac", "flow__rl_weight": 0.5}, 0.5),
        ({"flow__rl_weight": 0.0}, 0.0),
    ],
)
def test_the_weight_of_the_flow_reward_depends_on_the_estimator(values, expected):
    assert configuration.resolve(given(algo="cf_mbpo", **values)).flow.rl_weight == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"algo": "cf_mbpo"}, True),
        ({"algo": "cf_mbpo", "use_algo": "mbpo"}, True),
        ({"algo": "mbpo"}, False),
        ({"algo": "sac"}, False),
        ({"algo": "cf_mbpo", "model__normalize_targets": False}, False),
        ({"algo": "mbpo", "model__normalize_targets": True}, True),
    ],
)
def test_targets_are_normalized_by_default_for_cf_mbpo_alone(values, expected):
    assert configuration.resolve(given(**values)).model.normalize_targets is expected


def test_resolving_leaves_its_argument_alone_and_is_idempotent():
    config = given()
    before = copy.deepcopy(config)
    resolved = configuration.resolve(config)
    assert config.to_dict() == before.to_dict()
    assert configuration.resolve(resolved) == resolved
    with pytest.raises(AttributeError):
        resolved.total_steps = 3


def test_a_configuration_read_from_json_resolves():
    resolved = configuration.resolve(given())
    again = configuration.resolve(ConfigDict(resolved.to_dict()))
    configuration.validate(again)
    assert again.to_dict() == resolved.to_dict()


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize("preset", environments.PRESETS)
@pytest.mark.parametrize("env", registry.registered_ids())
def test_every_preset_fills_every_field_of_every_environment(env, preset, algo):
    # with discrete actions, every algorithm that has a model, as a one-step agent
    one_step = registry.spec(env).discrete and RECIPES[algo].agent in fields.ROLLOUTS
    agent = "dyna" if one_step else None
    config = configuration.resolve(given(env, preset=preset, algo=algo, agent=agent))
    if registry.spec(env).discrete and algo in ("sac", "cf_mbpo", "mpc", "pets"):
        with pytest.raises(UserError):
            configuration.validate(config)
        return
    if config.agent == "dhmbpo" and not preset.startswith("dhmbpo"):
        with pytest.raises(
            UserError, match=r"sac\.batch_size=256 .* model\.num_elites=5: use 255\."
        ):
            configuration.validate(config)
    else:
        configuration.validate(config)
    unused = {"sac": {"model.objective", "rollout.filter", "use_algo"}, "cf_mbpo": set()}
    if config.agent in ("dyna", "mpc"):
        unused[algo] = {"rollout.filter", "use_algo"}
    planners = {name for name in leaves(config) if name.startswith("planner.")}
    elsewhere = set() if config.agent == "mpc" else planners
    aliases = {*fields.ALIASES, "model_loss_type", "va_norm"}
    empty = {name for name in leaves(config) if fields.get(config, name) is None}
    assert empty == aliases | elsewhere | unused.get(algo, {"use_algo"})


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("preset", environments.PRESETS)
def test_constants_have_the_types_of_the_schema(preset):
    common, families, fallback = environments.PRESETS[preset]
    for table in (common, fallback, *families.values()):
        config = default.get_config()
        config.update_from_flattened_dict(table)
        for name, value in table.items():
            assert fields.get(config, name) == value
            assert type(fields.get(config, name)) is type(value)


@pytest.mark.parametrize("preset", environments.PRESETS)
def test_an_environment_outside_the_table_gets_one_step_rollouts(preset):
    table = environments.constants("my_package.envs:Corridor-v0", preset)
    assert table["rollout.schedule"][2:] == (1, 1)


@pytest.mark.parametrize(
    ("env_id", "family"),
    [
        ("Hopper-v4", "Hopper"),
        ("AntTruncated-v5", "Ant"),
        ("HumanoidTruncatedObs-v2", "Humanoid"),
        ("my_package.envs:Corridor-v0", "Corridor"),
        ("space/Walker2d-v12", "Walker2d"),
        ("Hopper-v5+linear10", "Hopper"),
        ("my_package.envs:HumanoidTruncated-v5+noise4", "Humanoid"),
        ("Corridor+chaotic2", "Corridor"),
    ],
)
def test_family(env_id, family):
    assert environments.family(env_id) == family


@pytest.mark.parametrize(
    ("module", "algo"),
    [(cf_mbpo, "cf_mbpo"), (mbpo, "mbpo"), (sac, "sac"), (value_aware, "vaml")],
)
def test_the_demo_trains_two_seeds_and_other_environments_one(module, algo):
    demo, other = module.get_config(), module.get_config("Hopper-v5")
    assert demo.env == "InvertedPendulum-v5"
    assert (demo.num_seeds, other.num_seeds) == (2, 1)
    assert demo.algo == other.algo == algo
    for config in (demo, other):
        configuration.validate(configuration.resolve(config))


@pytest.mark.parametrize("algo", ["ma_l1", "vep", "vagram", "mbpo"])
def test_the_value_aware_demo_serves_every_objective(algo):
    config = value_aware.get_config()
    config.algo = algo
    configuration.validate(configuration.resolve(config))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"algo": "mpbo"}, ["--config.algo=mpbo", "Did you mean mbpo?", "sac, omd, mle, mpc"]),
        ({"preset": "mbrl-lib"}, ["Did you mean mbrl_lib?", "original, mbrl_lib"]),
        ({"model__objective": "vamel"}, ["--config.model.objective=vamel", "Did you mean vaml?"]),
        ({"rollout__filter": "nome"}, ["--config.rollout.filter=nome", "Did you mean none?"]),
        ({"logging__wandb": "on"}, ["--config.logging.wandb=on", "off, offline, online"]),
        ({"env": "Hoper-v5"}, ["Hoper-v5", "Hopper-v5"]),
        ({"env": "Hopper-v2"}, ["Hopper-v2", "Use Hopper-v5"]),
        ({"num_seeds": 0}, ["--config.num_seeds=0", "use 1 or more"]),
        ({"seed": -1}, ["--config.seed=-1", "use 0 or more"]),
        ({"eval_episodes": 0}, ["--config.eval_episodes=0", "use 1 or more"]),
        ({"epoch_length": 0}, ["--config.epoch_length=0", "use 1 or more"]),
        ({"total_steps": -5}, ["--config.total_steps=-5"]),
        ({"sac__hidden_width": -256}, ["--config.sac.hidden_width=-256"]),
        ({"model__hidden_depth": 0}, ["--config.model.hidden_depth=0"]),
        ({"checkpoint__every_epochs": -1}, ["--config.checkpoint.every_epochs=-1"]),
        ({"model__max_gradient_steps": -1}, ["use 0 or more"]),
        ({"discount": 1.0}, ["--config.discount=1.0", "between 0 and 1"]),
        ({"discount": float("nan")}, ["--config.discount=nan"]),
        ({"sac__learning_rate": 0.0}, ["--config.sac.learning_rate=0.0", "positive"]),
        ({"sac__target_update_rate": 1.5}, ["--config.sac.target_update_rate=1.5", "(0, 1]"]),
        ({"sac__initial_temperature": 0.0}, ["--config.sac.learn_temperature=false"]),
        ({"rollout__real_ratio": 1.0}, ["--config.rollout.real_ratio=1.0", "[0, 1)"]),
        ({"model__holdout_ratio": -0.1}, ["--config.model.holdout_ratio=-0.1", "[0, 1)"]),
        ({"model__num_elites": 8}, ["model.num_members=7", "use 7 or fewer"]),
        ({"rollout__starts": 1_002}, ["model.num_elites=5", "use 1000 or 1005"]),
        ({"rollout__starts": 3}, ["use 5."]),
        ({"initial_steps": 100}, ["--config.initial_steps=100", "256 or more"]),
        ({"total_steps": 5_000}, ["--config.total_steps=5000", "more than 5000"]),
        ({"replay_capacity": 4_000}, ["--config.replay_capacity=4000", "5000 or more"]),
        ({"update_every": 0}, ["--config.update_every=0", "use 1 or more"]),
        ({"update_every": 7}, ["--config.update_every=7", "epoch_length=1000", "a divisor"]),
        ({"update_every": 8, "total_steps": 10_001}, ["5001 steps of learning", "a divisor"]),
        ({"rollout__schedule": (1, 2, 3)}, ["four whole numbers"]),
        ({"rollout__schedule": (10, 5, 1, 1)}, ["from_step < to_step"]),
        ({"rollout__schedule": (0, 5, 2, 1)}, ["from_length <= to_length"]),
        ({"rollout__schedule": (0, 5, 1, 1.5)}, ["four whole numbers"]),
        ({"model__weight_decay": (1e-5, 1e-5)}, ["2 values for 5 layers", "give 1 or 5"]),
        ({"model__weight_decay": ("x",)}, ["--config.model.weight_decay=('x',)"]),
        ({"model__learn_reward": False}, ["Hopper-v5", "--config.model.learn_reward=true"]),
    ],
)
def test_a_mistake_is_reported_once_with_its_fix(values, expected):
    message = problems(**values)
    assert "problems in the configuration" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_algo": "filter"}, "Allowed: mbpo, discriminator, reward, both."),
        ({"use_algo": "discriminater"}, "Did you mean discriminator?"),
        (
            {"rollout__filter": "flow"},
            "Allowed: none, flow_discriminator, flow_reward, flow_both.",
        ),
        ({"flow__inputs": "sasr"}, "Allowed: sa, sar, sas, sars."),
        ({"flow__kind": "realnvp"}, "Allowed: affine, spline."),
        ({"flow__smoothing_form": "uniform"}, "Allowed: gaussian, multiplicative."),
        ({"flow__score_form": "clip"}, "Allowed: asinh, tanh."),
        ({"flow__rule": "drop"}, "Allowed: filter, plan, weight."),
        ({"flow__estimator": "sac"}, "Allowed: path, score, ac."),
        ({"flow__num_starts": 1002}, "model.num_elites=5: use 1005."),
        ({"flow__min_kept": 0.0}, "not a fraction in (0, 1]"),
        ({"flow__min_kept": 1.5}, "not a fraction in (0, 1]"),
        ({"flow__discount": 0.0}, "not in (0, 1]"),
        ({"flow__discount": 1.01}, "not in (0, 1]"),
        ({"flow__squash": (2.0,)}, "two positive numbers"),
        ({"flow__squash": (2.0, 0.0)}, "two positive numbers"),
        ({"flow__squash": (2.0, float("inf"))}, "two positive numbers"),
        ({"flow__squash": (2.0, True)}, "two positive numbers"),
        ({"flow__warmup_steps": (1000,)}, "two whole numbers"),
        ({"flow__warmup_steps": (1000, -1)}, "two whole numbers"),
        ({"flow__warmup_steps": (1000, 0.5)}, "two whole numbers"),
        ({"flow__estimator": "ac", "flow__inputs": "sar"}, "--config.flow.inputs=sar"),
        ({"flow__estimator": "ac", "flow__inputs": "sa"}, "use sas or sars"),
        ({"flow__conditional": True, "flow__inputs": "sa"}, "use sar, sas or sars"),
        ({"flow__inputs": "sa", "flow__horizon": 1}, "sees nothing of the model"),
        ({"flow__dv_weight": 0.0, "flow__nll_weight": 0.0}, "nothing to learn"),
        ({"flow__horizon": 0}, "use 1 or more"),
        ({"flow__recency": 99}, "use 100 or more"),
        ({"flow__recency": 0}, "use 1 or more"),
        ({"flow__num_steps": -1}, "use 0 or more"),
        ({"flow__refine_steps": -1}, "use 0 or more"),
        ({"flow__flow_steps_per_refinement": -1}, "use 0 or more"),
        ({"flow__num_layers": 0}, "use 1 or more"),
        ({"flow__num_candidates": 0}, "use 1 or more"),
        ({"flow__lookahead": 0}, "use 1 or more"),
        ({"flow__score_cap": 0.0}, "has to be a positive number"),
        ({"flow__learning_rate": 0.0}, "has to be a positive number"),
        ({"flow__warmup_learning_rate": 0.0}, "has to be a positive number"),
        ({"flow__refine_learning_rate": 0.0}, "has to be a positive number"),
        ({"flow__max_weight": 0.0}, "has to be a positive number"),
        ({"flow__smoothing": -0.1}, "has to be zero or positive"),
        ({"flow__dv_weight": -1.0}, "has to be zero or positive"),
        ({"flow__nll_weight": float("nan")}, "has to be zero or positive"),
        ({"flow__rl_weight": -1.0}, "has to be zero or positive"),
        ({"flow__mle_weight": -1.0}, "has to be zero or positive"),
        ({"flow__min_divergence": -1.0}, "has to be zero or positive"),
        ({"flow__gate_tolerance": float("inf")}, "has to be zero or positive"),
    ],
    ids=str,
)
def test_a_mistake_about_the_flows_is_refused_by_cf_mbpo_and_ignored_by_the_others(
    values, expected
):
    message = problems(algo="cf_mbpo", **values)
    for name, value in values.items():
        assert f"--config.{name.replace('__', '.')}={value}" in message
    assert expected in message
    if any(name.startswith("flow") for name in values):
        for ignoring in ({"algo": "mbpo"}, {"algo": "cf_mbpo", "use_algo": "mbpo"}):
            configuration.validate(configuration.resolve(given(**ignoring, **values)))


def test_the_first_segments_need_twenty_horizons_of_every_store():
    fits = {"initial_steps": 1000, "replay_capacity": 1000, "flow__recency": 1000}
    fits |= {"algo": "cf_mbpo", "flow__horizon": 50}
    configuration.validate(configuration.resolve(given(**fits)))
    message = problems(**fits | {"initial_steps": 999, "replay_capacity": 999})
    for part in ("2 problems", "initial_steps=999", "replay_capacity=999", "use 1000 or more"):
        assert part in message


@pytest.mark.parametrize("algo", ["mbpo", "sac"])
def test_use_algo_is_refused_where_it_means_nothing(algo):
    message = problems(algo=algo, use_algo="both")
    assert f"--config.use_algo=both means nothing to --config.algo={algo}" in message
    assert "--config.algo=cf_mbpo" in message


def test_all_mistakes_are_reported_together():
    message = problems(algo="mpbo", env="Hopper-v2", num_seeds=0, discount=2.0)
    assert message.startswith("4 problems in the configuration:\n  - ")
    for part in (
        "--config.algo=mpbo",
        "Hopper-v2",
        "--config.num_seeds=0",
        "--config.discount=2.0",
    ):
        assert part in message


def test_sac_ignores_the_blocks_it_does_not_use():
    config = given(
        algo="sac", model__num_elites=9, rollout__starts=7, rollout__schedule=(3,), seed=3
    )
    configuration.validate(configuration.resolve(config))


def test_a_known_reward_need_not_be_learned():
    config = given("InvertedPendulum-v5", model__learn_reward=False)
    configuration.validate(configuration.resolve(config))


def test_a_fixed_temperature_may_be_zero():
    config = given(sac__learn_temperature=False, sac__initial_temperature=0.0)
    configuration.validate(configuration.resolve(config))


def test_every_whole_number_of_the_schema_has_a_smallest_value():
    schema = default.get_config()
    numbers = {name for name in leaves(schema) if type_of(schema, name) is int}
    assert numbers - set(fields.ALIASES) == set(checks.SMALLEST)


def type_of(config, name):
    *blocks, leaf = name.split(".")
    return (fields.get(config, ".".join(blocks)) if blocks else config).get_type(leaf)


# --- names of Modhe et al. -----------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "objective"), [("l1", "ma_l1"), ("l2", "vaml")])
def test_names_of_the_value_aware_code_are_copied_to_our_fields(norm, objective):
    theirs = configuration.resolve(
        given(
            "Hopper-v5",
            model_loss_type="va",
            va_norm=norm,
            va_loss_coeff=0.02,
            value_update_interval=7,
            num_v_updates_in_model=3,
            v_update_batch_size=500,
        )
    )
    ours = configuration.resolve(
        given(
            "Hopper-v5",
            **{
                "model.objective": objective,
                "objective.value_weight": 0.02,
                "refit.interval": 7,
                "refit.updates": 3,
                "refit.starts": 500,
            },
        )
    )
    configuration.validate(theirs)
    assert theirs == ours


@pytest.mark.parametrize(
    ("fields_given", "message"),
    [
        ({"va_loss_coeff": 0.1, "objective.value_weight": 0.2}, "contradicts .*value_weight=0.2"),
        ({"model_loss_type": "va"}, "names no objective.*va_norm=l1 or l2"),
        ({"va_norm": "l1"}, "names no objective"),
        ({"algo": "vaml", "model_loss_type": "mle"}, "contradicts .*algo=vaml"),
        ({"algo": "sac", "model_loss_type": "va", "va_norm": "l1"}, "contradicts .*algo=sac"),
        ({"model_loss_type": "va", "va_norm": "l1", "model.objective": "mle"}, "contradicts"),
        ({"refit.interval": 5, "refit.starts": 1001}, "shared equally .*use 1005"),
        ({"refit.interval": 5, "refit.starts": 100_005}, "more than the replay"),
        ({"objective.include_entropy": True, "model.objective": "vaml"}, "needs a sampled action"),
        ({"objective.gradient_quantile": 0.0, "model.objective": "vagram"}, "not in \\(0, 1\\]"),
        ({"objective.critic": "second", "model.objective": "vaml"}, "unknown.* first, min"),
    ],
)
def test_contradictions_of_the_objective_are_refused(fields_given, message):
    with pytest.raises(UserError, match=message):
        configuration.validate(configuration.resolve(given("Hopper-v5", **fields_given)))


def test_rollouts_are_sampled_exactly_if_the_variance_is_trained():
    def deterministic(**changes):
        return configuration.resolve(given("Hopper-v5", **changes)).rollout.deterministic

    assert not deterministic()
    assert deterministic(algo="vaml")
    assert deterministic(**{"model.objective": "mse"})
    assert not deterministic(algo="vaml", **{"objective.num_model_samples": 1})
    assert deterministic(algo="vaml", **{"objective.num_model_samples": 2})
    assert deterministic(preset="modhe2022", **{"model.objective": "mse"})
    assert not deterministic(algo="vagram", **{"objective.mle_weight": 0.1})
    assert not deterministic(algo="ma_l1", preset="modhe2022")
    assert not deterministic(algo="vaml", **{"rollout.deterministic": False})


@pytest.mark.parametrize("env", [*cs285_mpc.EXPERIMENTS, "Pendulum-v1"])
def test_the_homeworks_planner_is_configured_as_published(env):
    config = configuration.resolve(cs285_mpc.get_config(env))
    configuration.validate(config)
    planner, model = config.planner, config.model
    assert (planner.name, planner.num_candidates, model.num_members) == ("random_shooting", 1000, 3)
    assert (model.hidden_width, model.hidden_depth, model.activation) == (250, 2, "tanh")
    assert (model.objective, model.keep, model.initializer) == ("mse", "last", "torch")
    assert model.weight_decay == (0.0,)
    assert model.sl_noise == 0.0
    found = config.total_steps, config.initial_steps, model.train_every, model.max_gradient_steps
    assert (*found, planner.horizon) == {
        "obstacles-cs285-v0": (17_000, 5_000, 1_000, 20, 10),
        "reacher-cs285-v0": (80_000, 5_000, 5_000, 1_000, 10),
        "cheetah-cs285-v0": (105_000, 5_000, 5_000, 1_500, 15),
        "Pendulum-v1": (180_000, 20_000, 8_000, 1_000, 10),
    }[env]
    assert (model.batch_size, model.learning_rate) == (512, 1e-3)


@pytest.mark.parametrize(("length", "agent"), [("0", "sac"), ("1", "mbpo"), ("10", "mbpo")])
def test_rollout_lengths_of_the_homework_are_algorithms(length, agent):
    config = configuration.resolve(cs285_mbpo.get_config(length))
    configuration.validate(config)
    assert (config.agent, config.env, config.total_steps) == (agent, "cheetah-cs285-v0", 55_000)
    if agent == "mbpo":
        assert config.rollout.schedule[2:] == (int(length),) * 2
        rollout, model = config.rollout, config.model
        assert rollout.deterministic
        assert rollout.real_ratio == pytest.approx({"1": 1 / 2, "10": 1 / 11}[length])
        assert (rollout.starts, rollout.retain_steps) == (498, 5_000)
        assert (model.hidden_width, model.hidden_depth, model.activation) == (250, 2, "tanh")
        assert (model.num_members, model.max_gradient_steps, model.batch_size) == (3, 150, 512)
        assert model.train_every == 500
    sac = config.sac
    assert (config.updates_per_step, config.initial_steps, config.discount) == (1, 5_000, 0.99)
    assert (sac.batch_size, sac.hidden_width, sac.hidden_depth) == (256, 256, 2)
    assert (sac.learning_rate, sac.initial_temperature) == (3e-4, 0.1)
    assert sac.learn_temperature


@pytest.mark.parametrize("env", [*pets.CONSTANTS, "InvertedPendulum-v5"])
def test_pets_is_configured_as_published(env):
    config = configuration.resolve(pets.get_config(env))
    configuration.validate(config)
    planner, model = config.planner, config.model
    assert (planner.name, planner.propagation, planner.num_particles) == ("cem", "ts1", 20)
    assert (model.objective, model.num_members, model.num_elites) == ("mle", 7, 5)
    found = planner.horizon, planner.num_candidates, planner.num_elites
    published = {
        "cartpole-continuous-v0": ((15, 350, 35), 7.5e-4, 3e-5, 50),
        "cartpole-pets-v0": ((30, 500, 50), 1e-4, 3e-5, 200),
    }
    if env in published:
        sizes, rate, decay, train_every = published[env]
        assert found == sizes
        assert (model.learning_rate, model.train_every) == (rate, train_every)
        assert set(model.weight_decay) == {decay}
    assert (planner.smoothing, planner.num_iterations) == (0.9, 5)
    assert (model.patience, model.max_epochs, model.hidden_depth) == (25, 25, 4)
    assert model.batch_size == 32  # of Chua et al. 2018; mbrl-lib's is 256
    assert not config.rollout.deterministic
