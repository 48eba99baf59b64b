"""The homework's variables as flags; the configurations they lead to are valid."""

import importlib

import pytest

from errors import UserError
from experiment import configuration, homework


def resolved(flags):
    """Returns the configuration of `--config=configs/x.py:argument --config.field=value ...`."""
    first, *rest = flags
    module, argument = first.removeprefix("--config=configs/").split(":")
    config = importlib.import_module(f"configs.{module.removesuffix('.py')}").get_config(argument)
    for flag in rest:
        name, text = flag.removeprefix("--config.").split("=")
        value = float(text) if text.replace(".", "").isdigit() else text
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        config.update_from_flattened_dict({name: value})
    config = configuration.resolve(config)
    configuration.validate(config)
    return config


def test_without_variables_both_experiments_are_those_of_the_configurations():
    (mb, mb_flags), (mbpo, mbpo_flags) = homework.experiments({"PATH": "/bin"})
    assert (mb, mb_flags) == ("mb_default", ["--config=configs/cs285_mpc.py:cheetah-cs285-v0"])
    assert mbpo == "mbpo_default"
    assert mbpo_flags == ["--config=configs/cs285_mbpo.py:10,cheetah-cs285-v0"]


def test_every_variable_of_planning_reaches_its_field():
    ((name, flags),) = homework.experiments(
        {
            "RUN_MBPO": "0",
            "MB_EXP_NAME": "mine",
            "MB_ENV_NAME": "reacher-cs285-v0",
            "MB_MPC_SAMPLING": "cem",
            "MB_CEM_ITERATIONS": "6",
            "MB_CEM_NUM_ELITES": "10",
            "MB_CEM_ALPHA": "0.5",
            "MB_MPC_HORIZON": "7",
            "MB_MPC_ACTION_SEQUENCES": "90",
            "MB_ADD_SL_NOISE": "1",
            "MB_N_ITER": "3",
            "MB_BATCH_SIZE_INITIAL": "2000",
            "MB_BATCH_SIZE": "400",
            "MB_TRAIN_BATCH_SIZE": "64",
            "MB_EVAL_BATCH_SIZE": "401",
            "MB_LEARNING_RATE": "0.002",
            "MB_N_LAYERS": "3",
            "MB_HIDDEN_SIZE": "32",
            "MB_NUM_AGENT_TRAIN_STEPS": "11",
            "MB_ENSEMBLE_SIZE": "4",
            "MB_SEED": "8",
            "MB_EXTRA_FLAGS": "--config.num_seeds=2",
        }
    )
    config = resolved(flags)
    planner, model = config.planner, config.model
    assert (name, config.env, config.seed, config.num_seeds) == ("mine", "reacher-cs285-v0", 8, 2)
    assert (planner.name, planner.num_iterations, planner.num_elites) == ("cem", 6, 10)
    assert (planner.smoothing, planner.horizon, planner.num_candidates) == (0.5, 7, 90)
    assert (model.sl_noise, model.batch_size, model.learning_rate) == (0.01, 64, 0.002)
    assert (model.hidden_depth, model.hidden_width, model.max_gradient_steps) == (3, 32, 11)
    assert (model.num_members, model.num_elites) == (4, 4)
    assert (config.initial_steps, config.epoch_length, config.total_steps) == (2000, 400, 3200)
    assert model.train_every == 400
    assert config.eval_episodes == 3


def test_every_variable_of_sac_reaches_its_field():
    ((_, flags),) = homework.experiments(
        {
            "RUN_MB": "0",
            "MBPO_ENV_NAME": "obstacles-cs285-v0",
            "MBPO_ROLLOUT_LENGTH": "5",
            "MBPO_ADD_SL_NOISE": "1",
            "SAC_N_ITER": "2000",
            "SAC_TRAIN_BATCH_SIZE": "128",
            "SAC_DISCOUNT": "0.9",
            "SAC_INIT_TEMPERATURE": "0.5",
            "SAC_LEARNING_RATE": "0.001",
            "SAC_N_LAYERS": "3",
            "SAC_HIDDEN_SIZE": "64",
            "SAC_ACTOR_UPDATE_FREQ": "2",
            "SAC_CRITIC_TARGET_UPDATE_FREQ": "4",
            "SAC_NUM_CRITIC_UPDATES": "1",
        }
    )
    config = resolved(flags)
    sac = config.sac
    assert (config.rollout.schedule[2:], config.model.sl_noise) == ((5, 5), 0.01)
    assert (config.updates_per_step, config.discount, sac.batch_size) == (2, 0.9, 128)
    assert (sac.initial_temperature, sac.learning_rate) == (0.5, 0.001)
    assert (sac.hidden_depth, sac.hidden_width) == (3, 64)
    assert (sac.policy_update_every, sac.target_update_every) == (2, 4)


def test_fewer_updates_than_steps_are_spread_over_the_steps():
    ((_, flags),) = homework.experiments(
        {"RUN_MB": "0", "MBPO_ROLLOUT_LENGTH": "0", "SAC_N_ITER": "1000"}
    )
    config = resolved(flags)
    assert (config.algo, config.epoch_length) == ("sac", 5000)
    assert (config.updates_per_step, config.update_every) == (1, 5)


def test_every_variable_of_mbpos_model_reaches_its_field():
    ((name, flags),) = homework.experiments(
        {
            "RUN_MB": "0",
            "MBPO_EXP_NAME": "mine",
            "MBPO_N_ITER": "3",
            "MBPO_BATCH_SIZE_INITIAL": "2000",
            "MBPO_BATCH_SIZE": "401",
            "MBPO_TRAIN_BATCH_SIZE": "64",
            "MBPO_EVAL_BATCH_SIZE": "501",
            "MBPO_LEARNING_RATE": "0.002",
            "MBPO_N_LAYERS": "3",
            "MBPO_HIDDEN_SIZE": "32",
            "MBPO_NUM_AGENT_TRAIN_STEPS": "11",
            "MBPO_ENSEMBLE_SIZE": "4",
            "MBPO_SEED": "8",
        }
    )
    config = resolved(flags)
    model, rollout = config.model, config.rollout
    assert (name, config.seed, config.eval_episodes) == ("mine", 8, 2)
    assert (model.batch_size, model.learning_rate) == (64, 0.002)
    assert (model.hidden_depth, model.hidden_width) == (3, 32)
    assert (config.initial_steps, config.epoch_length, config.total_steps) == (2000, 401, 3203)
    # ten refreshes per iteration, rounded up: tenths of 401 environment and 11 gradient steps
    assert (model.num_members, model.num_elites, model.train_every) == (4, 4, 41)
    assert model.max_gradient_steps == 2
    assert (rollout.starts, rollout.retain_steps) == (40, 401)


def test_mbpo_has_its_own_number_of_iterations():
    variables = {"RUN_MB": "0", "MBPO_BATCH_SIZE": "1000"}
    ((_, flags),) = homework.experiments(variables)
    assert resolved(flags).total_steps == 5_000 + 10 * 1_000


def test_what_the_original_ignores_changes_nothing(monkeypatch, capsys):
    variables = {"SAC_BATCH_SIZE": "1500", "MBPO_MPC_HORIZON": "5", "MBPO_CEM_ALPHA": "1"}
    assert homework.experiments(variables) == homework.experiments({})
    monkeypatch.setattr(homework, "experiments", lambda variables: [])
    monkeypatch.setenv("SAC_BATCH_SIZE", "1500")
    homework.main()
    assert capsys.readouterr().out.startswith("SAC_BATCH_SIZE changes nothing")


def test_a_variable_without_value_is_none():
    assert homework.experiments({"RUN_MBPO": "", "MB_SEED": ""}) == homework.experiments({})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MB_MPC_SAMPLING": "best"}, "MB_MPC_SAMPLING=best: use random or cem."),
        ({"MB_CEM_ITERATIONS": "6"}, "MB_CEM_ITERATIONS needs MB_MPC_SAMPLING=cem."),
        ({"RUN_MB": "yes"}, "RUN_MB=yes: use 0 or 1."),
        ({"RUN_MBPO": "yes"}, "RUN_MBPO=yes: use 0 or 1."),
        ({"MB_ENV_NAME": "cheetah"}, "MB_ENV_NAME=cheetah: use one of obstacles-cs285-v0"),
        ({"MBPO_ROLLOUT_LENGTH": "ten"}, "MBPO_ROLLOUT_LENGTH=ten: use an integer of at least 0."),
        ({"MB_N_ITER": "0"}, "MB_N_ITER=0: use an integer of at least 1."),
        ({"SAC_TEMPERATURE": "1"}, "SAC_TEMPERATURE is unknown"),
        ({"MB_ROLLOUT_LENGTH": "5"}, "MB_ROLLOUT_LENGTH is unknown"),
        ({"SAC_N_ITER": "300"}, "SAC_N_ITER=300: .* use a multiple or a divisor of 5000"),
        ({"SAC_NUM_ACTOR_UPDATES": "2"}, "SAC_NUM_ACTOR_UPDATES=2: only 1 is supported"),
        ({"MBPO_ROLLOUT_LENGTH": "0", "MBPO_ADD_SL_NOISE": "1"}, "MBPO_ADD_SL_NOISE needs a model"),
        ({"MBPO_ROLLOUT_LENGTH": "0", "MBPO_N_LAYERS": "3"}, "MBPO_N_LAYERS needs a model"),
        (
            {"MBPO_ROLLOUT_LENGTH": "0", "MBPO_NUM_AGENT_TRAIN_STEPS": "3"},
            "MBPO_NUM_AGENT_TRAIN_STEPS needs a model",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_fix(variables, message):
    with pytest.raises(UserError, match=message):
        homework.experiments(variables)
