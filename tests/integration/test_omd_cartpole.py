"""The whole way of a one-step agent with discrete actions, environment inside the program."""

import signal
import subprocess
import sys
import time

import pytest

from experiment import metrics
from tests.integration import tiny

CHANGES = {
    "num_seeds": 2,
    "total_steps": 1664,
    "updates_per_step": 1,
    "model.num_members": 1,
    "model.num_elites": 1,
    "omd.diagnose_every": 200,
}


def arguments(workdir):
    config = tiny.REPOSITORY / "configs" / "omd_cartpole.py"
    flags = [*tiny.flags(**CHANGES), "--config.checkpoint.every_epochs=1"]
    return [f"--config={config}:CartPole-v1+noise2", *flags, f"--workdir={workdir}"]


def tool(name, *given):
    command = [sys.executable, str(tiny.REPOSITORY / name), *map(str, given)]
    options = tiny.process_options()
    return subprocess.run(command, capture_output=True, timeout=300, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("omd") / "run"
    result = tiny.train(*arguments(workdir))
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.mark.slow
def test_a_killed_run_resumes_bit_by_bit(run, tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        tiny.command(*arguments(workdir)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **tiny.process_options(),
    )
    deadline = time.monotonic() + 120
    while not list(workdir.glob("checkpoints/latest_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(metrics.read(workdir)[0])
    result = tiny.train(*arguments(workdir))
    assert result.returncode == 0, result.stderr
    assert "Resuming at step" in result.stdout
    resumed, undisturbed = metrics.read(workdir), metrics.read(run)
    assert before < len(undisturbed[0]) == 17
    for seed in (0, 1):
        frame = undisturbed[seed]
        times = [name for name in frame if name == "wall_clock" or name.startswith("time/")]
        assert resumed[seed].drop(columns=times).equals(frame.drop(columns=times))
    assert not undisturbed[0]["critic/q"].equals(undisturbed[1]["critic/q"])


@pytest.mark.long
def test_its_tools_work_on_it(run):
    played = tool("evaluate.py", "--workdir", run, "--episodes", 2)
    assert played.returncode == 0, played.stderr
    assert "return of" in played.stdout
    looked_at = tool("diagnose.py", "--workdir", run, "--episodes", 2)
    assert looked_at.returncode == 0, looked_at.stderr
    assert "onjugate gradients" in (run / "report.md").read_text()
