import json

import pytest

from errors import UserError
from experiment import sweep_plan
from experiment.sweep_folder import open_sweep, read

# ml_collections loads configuration files in a way that Python 3.12 has removed.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SAC = ["--config=configs/sac.py"]


def start(out, *more, grid="algo=sac,mbpo", seeds=2, per_trial=1):
    arguments = [*SAC, *more]
    parsed = sweep_plan.parse_grid(grid)
    base = sweep_plan.read_base(arguments)
    trials = sweep_plan.plan(arguments, parsed, seeds, per_trial, out)
    open_sweep(out, "python sweep.py --out x", base, parsed, trials)
    return trials


@pytest.fixture
def started(tmp_path):
    """A sweep of which each trial has its folder."""
    for trial in start(tmp_path / "s"):
        trial.folder.mkdir(parents=True)
    return tmp_path / "s"


def test_the_file_says_what_runs(started):
    content = json.loads((started / "sweep.json").read_text())
    assert content["grid"] == {"algo": ["sac", "mbpo"]}
    assert content["config"]["model.batch_size"] == 256
    assert list(content["trials"]) == [
        f"algo={algo}/seed_{seed}" for algo in ("sac", "mbpo") for seed in (0, 1)
    ]
    trial = content["trials"]["algo=mbpo/seed_1"]
    assert trial["seeds"] == [1]
    assert trial["command"].endswith(
        "train.py --config=configs/sac.py --config.algo=mbpo --config.seed=1 "
        f"--config.num_seeds=1 --workdir={started}/algo=mbpo/seed_1"
    )


@pytest.mark.parametrize(
    "larger",
    [
        {},
        {"seeds": 3},
        {"grid": "config.algo=cf_mbpo,mbpo,sac"},
    ],
)
def test_the_same_or_a_larger_sweep_continues(started, larger):
    start(started, "--config.logging.tensorboard=false", **larger)
    assert start(started, **larger)


@pytest.mark.parametrize(
    ("arguments", "changes", "lines"),
    [
        (
            ["--config.discount=0.5", "--config.total_steps=3000"],
            {},
            [
                "--config.discount: in {out} null, given 0.5",
                "total_steps: in {out} null, given 3000",
            ],
        ),
        ([], {"seeds": 1}, ["algo=sac/seed_1: seeds 1", "algo=mbpo/seed_1: seeds 1"]),
        ([], {"grid": "algo=sac"}, ["algo=mbpo/seed_0: seeds 0"]),
        ([], {"per_trial": 2}, ["algo=sac/seed_0: seeds 0", "algo=sac/seed_1: seeds 1"]),
        (["--config.seed=1"], {}, ["--config.seed: in {out} 0, given 1", "algo=sac/seed_0"]),
    ],
)
def test_another_sweep_is_refused_with_what_differs(started, arguments, changes, lines):
    before = (started / "sweep.json").read_bytes()
    with pytest.raises(UserError, match="holds another sweep") as error:
        start(started, *arguments, **changes)
    for line in lines:
        assert line.format(out=started) in str(error.value)
    assert "epoch_length" not in str(error.value)
    assert "\n  python sweep.py --out x\n" in str(error.value)
    assert (started / "sweep.json").read_bytes() == before


def test_as_long_as_no_trial_has_started_everything_may_change(tmp_path):
    start(tmp_path)
    start(tmp_path, "--config.discount=0.5", seeds=1)
    assert json.loads((tmp_path / "sweep.json").read_text())["config"]["discount"] == 0.5


DAMAGED = [
    "{",
    "[]",
    "{}",
    '{"command": "c", "config": {}, "trials": ["algo=sac/seed_0"]}',
    '{"command": "c", "config": {}, "trials": {"algo=sac/seed_0": {"seeds": [0]}}}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named(started, content):
    (started / "sweep.json").write_text(content)
    for look in (start, read):
        with pytest.raises(UserError, match=r"sweep\.json is damaged"):
            look(started)


def test_the_file_names_the_folders_of_all_trials_started_or_not(tmp_path):
    trials = start(tmp_path / "s", seeds=3, per_trial=2)
    trials[0].folder.mkdir(parents=True)
    content = read(tmp_path / "s")
    assert content["command"] == "python sweep.py --out x"
    assert content["config"]["model.batch_size"] == 256
    folders = {tmp_path / "s" / name: trial for name, trial in content["trials"].items()}
    assert list(folders) == [trial.folder for trial in trials]
    assert [trial["seeds"] for trial in folders.values()] == [[0, 1], [2], [0, 1], [2]]
    assert [trial["command"] for trial in folders.values()] == [t.command for t in trials]


@pytest.mark.parametrize("place", ["file/sweep", "/proc/sweep"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out=.*sweep"):
        start(tmp_path / place)
