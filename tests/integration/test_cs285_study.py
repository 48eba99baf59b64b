"""The study of the homework: what its driver runs, skips and writes down."""

import time

import pandas as pd
import pytest

from analysis.cs285_study import points
from benchmarks import cs285_study
from configs import default
from experiment import run_folder
from experiment.metrics import MetricsWriter

POINT = points(full=False)[0]


@pytest.fixture
def commands(monkeypatch):
    """What the driver would run."""
    given = []

    def logged(command, folder):
        given.append(command)
        return "not run"

    monkeypatch.setattr(cs285_study, "logged", logged)
    return given


def finish(folder, steps, **others):
    """Writes a run of POINT, with other settings if any."""
    config = default.get_config()
    config.update_from_flattened_dict(POINT.flags | others)
    run_folder.open_run(folder, config.to_dict(), {})
    run_folder.close_run(folder)
    writer = MetricsWriter(folder, [0], tensorboard=False, wandb="off", wandb_project="", config={})
    for step in steps:
        writer.write(step, [{"eval/return": -30.0, "wall_clock": 1.0}])
    writer.close()


def test_a_run_that_is_not_finished_is_started_with_its_settings(tmp_path, commands):
    folder = tmp_path / POINT.name
    finish(folder, [5_000])
    options, before = cs285_study.parse(["--out", str(tmp_path)]), time.time()
    assert cs285_study.run(POINT, folder, options) == "not run"
    ((script, *flags),) = commands
    assert script.endswith("train.py")
    assert flags[0] == "--config=configs/cs285_mpc.py:obstacles-cs285-v0"
    assert "--config.total_steps=5100" in flags
    assert "--config.eval_episodes=20" in flags
    assert f"--workdir={folder}" in flags
    ((name, start, end),) = pd.read_csv(tmp_path / "programs.csv").to_numpy().tolist()
    assert name == POINT.name
    assert before - 0.1 < start <= end < time.time() + 0.1


def test_a_finished_run_is_skipped(tmp_path, commands):
    finish(tmp_path / POINT.name, [5_000, 5_100])
    options = cs285_study.parse(["--out", str(tmp_path)])
    assert cs285_study.run(POINT, tmp_path / POINT.name, options) == ""
    assert not commands
    assert not (tmp_path / "programs.csv").exists()


def test_a_run_of_other_settings_is_not_taken_for_a_finished_one(tmp_path, commands):
    finish(tmp_path / POINT.name, [5_000, 5_100], eval_episodes=2)
    options = cs285_study.parse(["--out", str(tmp_path)])
    cs285_study.run(POINT, tmp_path / POINT.name, options)
    assert len(commands) == 1


def test_the_time_of_an_interrupted_part_counts(tmp_path, monkeypatch):
    def interrupted(command, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(cs285_study, "logged", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cs285_study.timed(["train.py"], tmp_path / "part")
    assert pd.read_csv(tmp_path / "programs.csv")["part"].tolist() == ["part", "part"]


def test_a_question_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        cs285_study.parse(["--questions=1,7"])
    assert "there is no question 7, only 1 to 6" in capsys.readouterr().err
