import fcntl
import json
import re
from pathlib import Path

import pytest

from analysis import runs
from errors import UserError
from experiment.run_folder import close_run, open_run

RESULTS = Path(__file__).parents[2] / "results"
CURVE = {0: [1.0, 2.0, 3.0], 1: [4.0, 5.0, 6.0]}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def load(*folders):
    """Loads runs beside a sound one and returns what was found besides it."""
    found, notes = runs.load(folders)
    return {run.folder.name: run for run in found}, [note.partition(": ")[2] for note in notes]


def test_run_folders_are_found_at_and_below_a_path_each_once(make_run, tmp_path):
    deep = make_run("sweep/width=64/trial_0", CURVE)
    make_run("sweep/width=64/trial_0/checkpoints/copy", CURVE)
    other = make_run("sweep/b", CURVE)
    found, notes = runs.load([deep, tmp_path / "sweep", other])
    assert [run.folder for run in found] == [deep, other]
    assert notes == []


def test_a_run_has_its_config_by_dotted_name_and_its_evaluated_seeds(make_run):
    folder = make_run("a", CURVE, **{"model.hidden_width": 64})
    run = runs.load([folder])[0][0]
    assert run.config["model.hidden_width"] == 64
    assert run.config["algo"] == "mbpo"
    assert run.name == "mbpo on Hopper-v5"
    assert run.step == 3000
    assert list(run.seeds) == [0, 1]
    assert run.seeds[1]["eval/return"].tolist() == [4.0, 5.0, 6.0]


def test_a_field_younger_than_the_run_has_its_default(make_run):
    folder = make_run("a", CURVE)
    content = json.loads((folder / "config.json").read_text())
    del content["config"]["flow"]
    (folder / "config.json").write_text(json.dumps(content))
    found, notes = load(folder)
    assert found["a"].config["flow.horizon"] == 5
    assert notes == []


def break_no_config(folder):
    (folder / "config.json").unlink()


def break_json(folder):
    (folder / "config.json").write_text('{"config": {"algo": "mb')


def break_config_type(folder):
    (folder / "config.json").write_text('{"config": [1], "environment": {}}')


def break_config_names(folder):
    (folder / "config.json").write_text('{"config": {"seed": 1}, "environment": {}}')


def break_no_metrics(folder):
    for path in (folder / "metrics").iterdir():
        path.unlink()


def break_only_headers(folder):
    for path in (folder / "metrics").iterdir():
        path.write_text(path.read_text().splitlines()[0] + "\n")


def break_no_return(folder):
    for path in (folder / "metrics").iterdir():
        edit(path, "eval/return,", "return,")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (break_no_config, "no config.json, so what was run here is unknown; left out."),
        (break_json, r"config.json is damaged \(Unterminated string .*\); left out."),
        (break_config_type, r"config.json cannot be used \(.*\); left out."),
        (break_config_names, "config.json names no algo and env; left out."),
        (break_no_metrics, "no evaluation yet; left out."),
        (break_only_headers, "no evaluation yet; left out."),
        (
            break_no_return,
            r"written by another version \(commit abc1234, jax 0.10.2\): no column eval/return; "
            "left out.",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line_and_the_rest_is_loaded(make_run, damage, line):
    sound, broken = make_run("sound", CURVE), make_run("broken", CURVE)
    damage(broken)
    found, notes = runs.load([broken, sound])
    assert [run.folder for run in found] == [sound]
    assert len(notes) == 1
    assert re.fullmatch(f"{re.escape(str(broken))}: {line}", notes[0])


def edit_config(folder, part, **fields):
    content = json.loads((folder / "config.json").read_text())
    content[part].update(fields)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("config", "num_seeds", None),
        ("config", "total_steps", "x"),
        ("config", "replay_capacity", [1]),
        ("config", "algo", 7),
        ("environment", "git", "x"),
        ("environment", "hardware", [1]),
    ],
)
def test_an_odd_value_ends_the_use_of_that_run_only(make_run, part, name, value):
    sound, odd = make_run("sound", CURVE), make_run("odd", CURVE)
    edit_config(odd, part, **{name: value})
    found, notes = runs.load([odd, sound])
    assert [run.folder for run in found] == [sound]
    assert notes == [f"{odd}: config.json cannot be used ({name} is {value!r}); left out."]


def make_sweep(folder, trials):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"command": "x", "config": {}, "grid": {}, "trials": {name: {} for name in trials}}
    (folder / "sweep.json").write_text(json.dumps(content))


def test_trials_that_have_not_written_their_config_or_not_started_have_a_line(make_run, tmp_path):
    sweep = tmp_path / "sweep"
    sound = make_run("sweep/width=64/seed0", CURVE)
    trials = ["width=64/seed0", "width=64/seed1", "width=200/seed0", "width=200/seed1"]
    make_sweep(sweep, trials)
    for name, file in (("width=64/seed1", "trial.json"), ("width=200/seed0", "log.txt")):
        (sweep / name).mkdir(parents=True)
        (sweep / name / file).write_text("[]")
    found, notes = runs.load([sweep])
    assert [run.folder for run in found] == [sound]
    line = "this trial has not got as far as its config.json, see log.txt; left out."
    assert notes == [
        f"{sweep}: 1 of its 4 trials not started yet.",
        f"{sweep / 'width=200/seed0'}: {line}",
        f"{sweep / 'width=64/seed1'}: {line}",
    ]
    # The same, asked for from above, and twice.
    assert runs.load([tmp_path, sweep])[1] == notes


def test_a_finished_or_damaged_sweep_is_no_trouble(make_run, tmp_path):
    make_run("sweep/a/b", CURVE)
    make_sweep(tmp_path / "sweep", ["a/b"])
    assert runs.load([tmp_path])[1] == []
    (tmp_path / "sweep" / "sweep.json").write_text("[]")
    notes = runs.load([tmp_path])[1]
    assert len(notes) == 1
    assert notes[0].startswith(f"{tmp_path / 'sweep'}: sweep.json cannot be used (")


def test_a_log_that_is_not_below_a_sweep_is_no_run(make_run, tmp_path):
    make_run("runs/a", CURVE)
    (tmp_path / "runs" / "log.txt").write_text("")
    assert runs.load([tmp_path / "runs"])[1] == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("5.0", "5.x", "line 3: could not convert string to float: '5.x'"),
        ("2000,", "2000,7,", "line 3 has 6 values for 5 columns"),
        ("3000", "1000", "the values of env_step do not increase"),
        ("1000,", "-1000,", "a value of env_step is negative"),
        ("env_step", "step", "its first line has no column env_step"),
    ],
)
def test_a_damaged_seed_is_left_out_and_its_file_named(make_run, old, new, problem):
    folder = make_run("a", CURVE)
    edit(folder / "metrics" / "seed_1.csv", old, new)
    found, notes = load(folder)
    assert list(found["a"].seeds) == [0]
    assert notes == [f"metrics/seed_1.csv is damaged ({problem}); this seed is left out."]


def test_bytes_that_are_no_text_and_an_empty_file_are_damage(make_run):
    folder = make_run("a", {0: [1.0], 1: [1.0], 2: [1.0]})
    (folder / "metrics" / "seed_1.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "metrics" / "seed_2.csv").write_text("")
    found, notes = load(folder)
    assert list(found["a"].seeds) == [0]
    assert len(notes) == 2
    assert all("is damaged" in note for note in notes)


def test_half_a_last_line_is_not_damage(make_run):
    folder = make_run("a", CURVE, total_steps=3000)
    path = folder / "metrics" / "seed_1.csv"
    path.write_text(path.read_text() + "4000,9.")
    found, notes = load(folder)
    assert found["a"].seeds[1]["env_step"].tolist() == [1000, 2000, 3000]
    assert notes == []


def test_a_missing_seed_is_named(make_run):
    folder = make_run("a", CURVE, num_seeds=4)
    found, notes = load(folder)
    assert list(found["a"].seeds) == [0, 1]
    assert notes == ["metrics/ lacks seed_2.csv, seed_3.csv of 4 seeds."]


def test_a_seed_without_an_evaluation_does_not_count(make_run):
    folder = make_run("a", {0: [1.0, 2.0], 1: [float("nan"), float("nan")]})
    assert list(load(folder)[0]["a"].seeds) == [0]


def test_a_setting_that_has_another_name_now_is_read_under_that(make_run):
    folder = make_run("a", CURVE)
    content = json.loads((folder / "config.json").read_text())
    del content["config"]["precision"]
    content["config"]["planner"]["precision"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(content))
    found, notes = load(folder)
    assert found["a"].config["precision"] == "bfloat16"
    assert "planner.precision" not in found["a"].config
    assert notes == []


def test_settings_that_this_version_does_not_know_are_named_but_the_run_is_used(make_run):
    folder = make_run("a", CURVE)
    edit(folder / "config.json", '"num_members"', '"ensemble_size"')
    found, notes = load(folder)
    assert list(found) == ["a"]
    assert notes == [
        "written by another version (commit abc1234, jax 0.10.2): this one does not know "
        "model.ensemble_size."
    ]


def test_a_stopped_run_says_how_to_resume_it(make_run):
    folder = make_run("a", CURVE, total_steps=5000)
    found, notes = load(folder)
    assert found["a"].step == 3000
    assert len(notes) == 1
    assert notes[0].startswith(
        f"stopped at step 3,000 of 5,000: repeat its command with `--workdir={folder}` to resume."
    )


def test_a_run_being_written_names_the_process_and_its_lock_stays_untouched(make_run, monkeypatch):
    folder = make_run("a", CURVE, total_steps=5000)
    config = json.loads((folder / "config.json").read_text())["config"]
    open_run(folder, config, {})
    before = (folder / ".lock").stat()
    process = (folder / ".lock").read_text()
    try:
        monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("took the lock"))
        monkeypatch.setattr(fcntl, "lockf", lambda *_: pytest.fail("took the lock"))
        found, notes = load(folder)
        assert (folder / ".lock").stat().st_mtime_ns == before.st_mtime_ns
    finally:
        monkeypatch.undo()
        close_run(folder)
    assert list(found) == ["a"]
    assert notes == [f"still being written (process {process}), at step 3,000 of 5,000."]
    assert load(folder)[1][0].startswith("stopped at")


def test_without_any_usable_run_the_reasons_are_the_message(make_run, tmp_path):
    folder = make_run("a", CURVE)
    break_no_metrics(folder)
    with pytest.raises(UserError) as error:
        runs.load([folder, tmp_path / "nothing"])
    assert f"{folder}: no evaluation yet" in str(error.value)
    assert f"{tmp_path / 'nothing'}: no run folder is here or below" in str(error.value)


def test_the_runs_in_the_repository_load_without_complaint():
    found, notes = runs.load([RESULTS])
    assert {"mbpo_hopper", "discriminator"} <= {run.folder.name for run in found}
    assert notes == []
