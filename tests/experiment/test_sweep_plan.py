import shlex
import subprocess
import sys

import pytest

from errors import UserError
from experiment import sweep_plan
from experiment.sweep_plan import parse_grid, plan

# ml_collections loads configuration files in a way that Python 3.12 has removed.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SAC = ["--config=configs/sac.py", "--config.total_steps=2000"]


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("", {}),
        (
            "config.algo=mbpo,sac;config.model.hidden_width=64,200",
            {"algo": ["mbpo", "sac"], "model.hidden_width": ["64", "200"]},
        ),
        ("algo = mbpo , sac ; --config.seed_=1;", {"algo": ["mbpo", "sac"], "seed_": ["1"]}),
        (
            "rollout.schedule=(1, 2, 3, 4),[5,6,7,8]",
            {"rollout.schedule": ["(1, 2, 3, 4)", "[5,6,7,8]"]},
        ),
        ("""env='a,b;c',"d'e" """, {"env": ["a,b;c", "d'e"]}),
        ("env=a=b,c", {"env": ["a=b", "c"]}),
    ],
)
def test_a_grid_is_read_as_typed(text, grid):
    assert parse_grid(text) == grid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("algo", "'algo' is not field=value"),
        ("=3", "is not field=value"),
        ("algo=mbpo,,sac", "algo has an empty value"),
        ("algo=", "algo has an empty value"),
        ("algo=mbpo;config.algo=sac", "algo is given twice"),
        ("rollout.schedule=(1,2", "is not closed"),
        ("env='a", "is not closed"),
        ("seed=1,2", "--seeds, and --config.seed for the first"),
        ("config.num_seeds=1,2", "--seeds, and --seeds-per-trial"),
        ("logging.wandb=off,offline", "pass --config.logging.wandb=VALUE for all trials"),
        ("config.checkpoint.every_epochs=1,2", "pass --config.checkpoint.every_epochs=VALUE"),
    ],
)
def test_a_mistake_in_the_grid_is_explained(text, words):
    with pytest.raises(UserError, match="--grid: ") as error:
        parse_grid(text)
    assert words in str(error.value)


def test_trials_are_all_points_with_all_groups_of_seeds(tmp_path):
    grid = parse_grid("config.algo=mbpo,sac;config.model.hidden_width=64,200")
    trials = plan([*SAC, "--config.seed=10"], grid, 5, 2, tmp_path)
    points = [f"algo={a},model.hidden_width={w}" for a in ("mbpo", "sac") for w in (64, 200)]
    groups = [range(10, 12), range(12, 14), range(14, 15)]
    assert [(t.label, t.seeds) for t in trials] == [(p, g) for p in points for g in groups]
    assert trials[-1].folder == tmp_path / "algo=sac,model.hidden_width=200" / "seed_14"
    assert trials[-1].name == "algo=sac,model.hidden_width=200/seed_14"
    assert {t.total_steps for t in trials} == {2000}
    assert trials[-1].arguments == (
        *SAC,
        "--config.seed=10",
        "--config.algo=sac",
        "--config.model.hidden_width=200",
        "--config.seed=14",
        "--config.num_seeds=1",
        f"--workdir={trials[-1].folder}",
    )


def test_train_py_accepts_the_command_of_a_trial(tmp_path):
    # num_seeds=0 after it is refused, so that nothing trains, and alone: the rest is accepted.
    grid = parse_grid("rollout.schedule='(1, 20, 1, 3)'")
    (trial,) = plan([*SAC, "--config.algo=mbpo"], grid, 1, 1, tmp_path / "a b")
    python, *words = shlex.split(trial.command)
    assert python == "python"
    result = subprocess.run(
        [sys.executable, *words, "--config.num_seeds=0"],
        cwd=sweep_plan.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == "error: --config.num_seeds=0 is too small: use 1 or more.\n"


def test_total_steps_come_from_the_environment_of_the_point(tmp_path):
    grid = parse_grid("env=InvertedPendulum-v5,Hopper-v5")
    trials = plan(["--config=configs/sac.py"], grid, 1, 1, tmp_path)
    assert [t.total_steps for t in trials] == [10_000, 125_000]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("(50, 250, 1, 3)", "rollout.schedule=50_250_1_3"),
        ("1e-3", "rollout.schedule=1e-3"),
        ("my_envs:A/B-v0", "rollout.schedule=my_envs_A_B-v0"),
    ],
)
def test_labels_are_names_of_folders_that_need_no_quotes(value, label):
    assert sweep_plan._label({"rollout.schedule": value}) == label
    assert shlex.quote(label.replace("=", "")) == label.replace("=", "")


def test_without_a_grid_the_label_is_the_algorithm(tmp_path):
    (trial,) = plan(SAC, {}, 1, 1, tmp_path)
    assert trial.folder == tmp_path / "sac" / "seed_0"


def test_points_that_would_share_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="two points are named env=a_b"):
        plan(SAC, parse_grid("env=a:b,a_b"), 1, 1, tmp_path)
    with pytest.raises(UserError, match="two points are named algo=sac"):
        plan(SAC, parse_grid("algo=sac,sac"), 1, 1, tmp_path)


def test_a_label_too_long_for_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="too long"):
        plan(SAC, {"env": ["x" * 300]}, 1, 1, tmp_path)


def message(arguments, grid, tmp_path):
    with pytest.raises(UserError) as error:
        plan(arguments, parse_grid(grid), 2, 1, tmp_path)
    return str(error.value)


def test_an_unknown_field_is_told_once_with_the_nearest_name(tmp_path):
    assert message(SAC, "algo=mbpo,sac;config.model.width=64,200", tmp_path) == (
        "--config.model.width: no such field. Did you mean --config.model.hidden_width?"
    )


def test_the_problems_of_all_points_are_listed(tmp_path):
    text = message(SAC, "algo=mpbo,sac;sac.hidden_width=64,0,x", tmp_path)
    assert text.startswith("5 of 6 points of the grid are refused:\n")
    assert "algo=mpbo,sac.hidden_width=64:\n  --config.algo=mpbo is unknown." in text
    assert "Did you mean mbpo?" in text
    assert "algo=sac,sac.hidden_width=0:\n  --config.sac.hidden_width=0 is too small" in text
    assert (
        "algo=mpbo,sac.hidden_width=x, algo=sac,sac.hidden_width=x:\n"
        "  flag --config.sac.hidden_width=x: expected a whole number" in text
    )
    assert "algo=sac,sac.hidden_width=64" not in text


@pytest.mark.parametrize(
    "values", ["discount=0.9,0.90", "discount=.9,9e-1", "epoch_length=1000,1e3"]
)
def test_values_that_mean_the_same_are_refused(values, tmp_path):
    field, _, pair = values.partition("=")
    first, second = pair.split(",")
    assert message(SAC, values, tmp_path) == (
        "1 of 2 points of the grid are refused:\n"
        f"{field}={second}:\n"
        f"  the same configuration as {field}={first}: remove one of the two."
    )


def test_a_repeated_value_is_refused_at_every_point_that_has_it(tmp_path):
    text = message(SAC, "algo=mbpo,sac;discount=0.9,0.8,0.90", tmp_path)
    assert text.startswith("2 of 6 points of the grid are refused:\n")
    for algo in ("mbpo", "sac"):
        assert (
            f"algo={algo},discount=0.90:\n"
            f"  the same configuration as algo={algo},discount=0.9: remove one of the two."
        ) in text


def test_the_last_seed_is_checked(tmp_path):
    assert "--config.seed=4294967296" in message([*SAC, f"--config.seed={2**32 - 1}"], "", tmp_path)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.num_seeds=4", "pass --seeds"),
        ("--workdir=here", "below --out"),
        ("total_steps=5", "unexpected argument"),
        ("--config.totl_steps=5", "--config.total_steps"),
    ],
)
def test_what_the_sweep_decides_cannot_be_given(argument, words, tmp_path):
    assert words in message([*SAC, argument], "", tmp_path)
