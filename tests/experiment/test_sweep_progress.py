import json
import math
import subprocess
import sys
import time

import pytest

from experiment.metrics import MetricsWriter
from experiment.sweep_plan import Trial
from experiment.sweep_progress import Status, is_finished, last_lines


@pytest.fixture
def trial(tmp_path):
    return Trial("algo=sac", range(3, 5), tmp_path / "algo=sac" / "seed_3", 300, ())


def train(trial, steps):
    writer = MetricsWriter(
        trial.folder, list(trial.seeds), tensorboard=False, wandb="off", wandb_project="", config={}
    )
    for step in steps:
        rows = [
            {"wall_clock": step / 10, "eval/return": step + k, "eval/length": 1.0, "critic/loss": k}
            for k in range(2)
        ]
        writer.write(step, rows)
    writer.close()


def attempt(trial, *sweeps):
    content = [
        {"sweep": s, "host": f"host{k}", "node": "n", "started": time.time() - 50}
        for k, s in enumerate(sweeps)
    ]
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "trial.json").write_text(json.dumps(content))


def read(trial, sweep="now"):
    status = Status(trial)
    status.read(sweep)
    return status


def test_a_trial_without_a_folder_waits(trial):
    status = read(trial)
    assert (status.label, status.step, status.host) == ("waiting", 0, "")
    assert math.isnan(status.last_return)
    assert not is_finished(trial)
    assert last_lines(trial, 3) == []


def test_step_and_return_are_those_of_the_last_epoch_averaged_over_seeds(trial):
    train(trial, [100, 200])
    status = read(trial)
    assert (status.step, status.last_return, status.seconds) == (200, 200.5, 20.0)


def test_the_seed_that_is_behind_counts_and_half_a_row_does_not(trial):
    train(trial, [100, 200])
    path = trial.folder / "metrics" / "seed_4.csv"
    path.write_text(path.read_text()[:-2])  # cut in its last row
    assert read(trial).step == 100


def test_a_header_alone_is_no_progress(trial):
    train(trial, [100])
    path = trial.folder / "metrics" / "seed_4.csv"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert read(trial).step == 0


def test_only_the_end_of_a_long_table_is_needed(trial):
    train(trial, range(1, 900))
    assert (trial.folder / "metrics" / "seed_3.csv").stat().st_size > 1 << 14
    assert read(trial).step == 899


def test_a_damaged_table_is_no_progress(trial):
    train(trial, [100])
    (trial.folder / "metrics" / "seed_4.csv").write_text("env_step\nnothing\nmore\n")
    assert read(trial).step == 0


def test_attempts_of_this_call_are_counted_those_of_earlier_ones_are_not(trial):
    attempt(trial, "before", "before")
    assert read(trial).label == "waiting"
    attempt(trial, "before", "now")
    status = read(trial)
    assert (status.label, status.attempts, status.host) == ("running", 1, "host1")
    assert status.seconds == pytest.approx(50, abs=5)
    attempt(trial, "before", "now", "now", "now")
    assert read(trial).label == "retry 2"


def test_a_damaged_list_of_attempts_ends_nothing(trial):
    attempt(trial, "now")
    status = Status(trial)
    status.read("now")
    (trial.folder / "trial.json").write_text("{")
    status.read("now")
    assert (status.label, status.attempts, status.host) == ("running", 1, "host0")


def test_reading_progress_needs_no_figures_and_no_statistics():
    code = "import sys, experiment.sweep_progress; print({'matplotlib', 'scipy'} & {*sys.modules})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert output == b"set()\n"


def test_finished_means_all_steps_and_the_report(trial):
    train(trial, [100, 300])
    assert not is_finished(trial)
    (trial.folder / "report.md").write_text("")
    assert is_finished(trial)
    longer = trial._replace(total_steps=400)
    assert not is_finished(longer)


def test_the_end_of_the_log(trial):
    trial.folder.mkdir(parents=True)
    (trial.folder / "log.txt").write_text("".join(f"{k}\n" for k in range(9999)))
    assert last_lines(trial, 2) == ["9997", "9998"]
