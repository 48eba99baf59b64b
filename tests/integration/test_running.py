"""evaluate.py and diagnose.py on a run that another process is training at that moment."""

import subprocess
import sys
import time

import pytest

from analysis import diagnosis_table
from experiment import metrics
from tests.integration import tiny

# Its steps take long enough, while the file exists, for both tools to finish before the run does.
SLOWED = """
import os, time
import gymnasium
from envs import register, terminations

class Slowed(gymnasium.Wrapper):
    def step(self, action):
        if os.path.exists(os.environ.get("SLOW_WHILE_THIS_EXISTS", "")):
            time.sleep(0.05)
        return super().step(action)

register(
    "Slowed-v0",
    termination=terminations.inverted_pendulum,
    make=lambda: Slowed(gymnasium.make("InvertedPendulum-v5")),
)
"""
STEPS, EPOCH = 1264, 100
LAST_SECONDS = 120


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts a program of the repository in the background."""
    (tmp_path / "my_envs.py").write_text(SLOWED)
    processes = []

    def begin(program, *arguments, **environment):
        options = tiny.process_options(tmp_path)
        options["env"] |= environment
        process = subprocess.Popen(
            [sys.executable, str(tiny.REPOSITORY / program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_tools_read_a_run_that_goes_on_undisturbed(start, tmp_path):
    slow = tmp_path / "slow"
    slow.touch()
    run, results = tmp_path / "run", tmp_path / "results"
    sizes = {"total_steps": STEPS, "epoch_length": EPOCH, "num_seeds": 1, "updates_per_step": 1}
    training = start(
        "train.py",
        "--config=configs/mbpo.py",
        "--config.env=my_envs:Slowed-v0",
        f"--workdir={run}",
        *tiny.flags(**sizes),
        SLOW_WHILE_THIS_EXISTS=str(slow),
    )
    deadline = time.monotonic() + LAST_SECONDS
    while not list(run.glob("checkpoints/latest_*")):
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.1)

    tools = [
        start("evaluate.py", "--workdir", run, "--episodes", 2, "--out", results),
        start("diagnose.py", "--workdir", run, "--episodes", 3, "--horizon", 3, "--out", results),
    ]
    for tool in tools:
        output, errors = tool.communicate(timeout=LAST_SECONDS)
        assert tool.returncode == 0, errors
        assert f"Written to {results}" in output
    assert training.poll() is None, "the run was over before the tools were"
    (step,) = diagnosis_table.read(results / "diagnosis.csv").run.unique()
    assert 0 < int(step.split()[-2].replace(",", "")) < STEPS

    slow.unlink()
    _, errors = training.communicate(timeout=LAST_SECONDS)
    assert (training.returncode, errors) == (0, "")
    steps = metrics.read(run)[0]["env_step"].to_list()
    assert steps == list(range(64, STEPS + 1, EPOCH))
    assert not list(run.rglob("tmp_*"))
