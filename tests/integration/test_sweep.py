"""Sweeps on Ray: a cluster of two nodes, workers that are killed, trials that fail, Ctrl-C."""

import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import sweep
from errors import UserError
from experiment import metrics
from tests.integration import tiny

GRID = ["--grid", "config.sac.hidden_width=8,16"]
KILLED = ("sac.hidden_width=8", 0)
FIRST_EPOCH = 64  # the first row of metrics, after which comes the first checkpoint
LONG = 1264  # steps of a trial that is surely not over when it is interrupted
LAST_SECONDS = 120  # whatever takes longer has failed
# Ray listens on all interfaces; without a token others on this machine could run programs there.
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(), "RAY_worker_niceness": "0"}

# A cluster of two machines with one core each, both of them this one; lives until stdin closes.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

ENVS = """
import gymnasium, numpy as np
from envs import register, terminations

class Env(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)

    def __init__(self, last):
        self.last, self.total = last, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.time += 1
        self.total += 1
        reward = 1.0 if self.total < self.last else float("nan")
        return self.np_random.random(2, np.float32), reward, False, self.time == 30, {}

register("Fine-v0", termination=terminations.never, make=lambda: Env(float("inf")))
register("Nan-v0", termination=terminations.never, make=lambda: Env(200))
"""


def arguments(out, *more, **changes):
    config = [f"--config={tiny.REPOSITORY / 'configs' / 'sac.py'}", *tiny.flags(**changes)]
    return [*config, *map(str, more), f"--out={out}"]


def start(out, *more, paths=(), **changes):
    options = tiny.process_options(*paths)
    options["env"] |= RAY
    return subprocess.Popen(
        [sys.executable, str(tiny.REPOSITORY / "sweep.py"), *arguments(out, *more, **changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=LAST_SECONDS)
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def wait_for(condition, process):
    deadline = time.monotonic() + LAST_SECONDS
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return found


def processes(folder):
    """Returns the processes of train.py in run folders at or below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(f"--workdir={folder}") for word in words):
            found.append(process)
    return found


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def epochs(workdir):
    """Returns the number of finished epochs, the untrained policy's evaluation included."""
    path = workdir / "metrics" / "seed_0.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def attempts(out):
    return {
        path.parent.relative_to(out).as_posix(): path.read_bytes()
        for path in out.glob("*/*/trial.json")
    }


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray cluster of two nodes."""
    options = tiny.process_options() | {"stdin": subprocess.PIPE}
    options["env"] |= RAY
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options
    ) as process:
        children = []
        try:
            yield process.stdout.readline().strip()
            children = psutil.Process(process.pid).children(recursive=True)
            process.stdin.close()
            process.wait(timeout=LAST_SECONDS)
        finally:
            process.kill()
            for child in children:
                if child.is_running():
                    child.kill()


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):
    """A sweep of six trials, of which one lost its worker, then its own process."""
    out = tmp_path_factory.mktemp("swept") / "sweep"
    process = start(out, *GRID, "--seeds=3", f"--ray-address={cluster}")
    workdir = out / KILLED[0] / f"seed_{KILLED[1]}"
    checkpoints = workdir / "checkpoints"

    wait_for(lambda: epochs(workdir) >= 2 and list(checkpoints.glob("latest_*")), process)
    (trial,) = processes(workdir)
    worker = trial.parent()
    assert "ray::" in worker.cmdline()[0]
    worker.kill()
    trial.wait(timeout=5)  # it dies with its worker

    wait_for(lambda: epochs(workdir) >= 4, process)
    (other,) = processes(workdir)
    assert other.pid != trial.pid
    other.kill()
    return out, finish(process)


@pytest.mark.slow
def test_all_trials_complete_though_one_was_killed_twice(swept):
    out, output = swept
    assert "6 of 6 trials are done." in output
    assert output.count(": done | ") == 6
    name = f"{KILLED[0]}/seed_{KILLED[1]}"
    assert re.search(rf"{name}: retry 1 .*\n(.*\n)*.*{name}: retry 2 ", output)
    for width in (8, 16):
        for seed in range(3):
            frame = metrics.read(out / f"sac.hidden_width={width}" / f"seed_{seed}")[seed]
            assert frame["env_step"].tolist() == [64, 164, 264, 364, 464]
    assert processes(out) == []


@pytest.mark.slow
def test_both_nodes_of_the_cluster_worked(swept):
    nodes = {
        re.findall(r'"node": "(\w+)"', text.decode())[-1] for text in attempts(swept[0]).values()
    }
    assert len(nodes) == 2


@pytest.mark.slow
def test_the_killed_trial_equals_an_undisturbed_one(swept, tmp_path, monkeypatch):
    out, _ = swept
    workdir = out / KILLED[0] / f"seed_{KILLED[1]}"
    log = (workdir / "log.txt").read_text()
    resumed_at = [int(step) for step in re.findall(r"Resuming at step (\d+) of 464", log)]
    assert len(resumed_at) == 2
    assert FIRST_EPOCH <= resumed_at[0] < resumed_at[1] < 464
    for name in ("NPROC", "PJRT_NPROC", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    command = [*arguments("")[:-1], "--config.sac.hidden_width=8", "--config.num_seeds=1"]
    assert tiny.train(*command, f"--workdir={tmp_path / 'run'}").returncode == 0
    actual, expected = metrics.read(workdir)[0], metrics.read(tmp_path / "run")[0]
    assert list(actual) == list(expected)
    for name in expected:
        if name != "wall_clock" and not name.startswith("time/"):
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    assert expected["critic/loss"].notna().sum() == 4


@pytest.mark.slow
def test_the_same_sweep_again_starts_nothing(swept):
    out, _ = swept
    before = attempts(out)
    # An address at which nothing listens: nobody connects when nothing is left to do.
    output = finish(start(out, *GRID, "--seeds=3", "--ray-address=127.0.0.1:1"))
    assert "6 of 6 trials are done." in output
    assert "running" not in output
    assert attempts(out) == before


@pytest.mark.slow
def test_more_seeds_start_only_the_new_ones(swept, cluster):
    out, _ = swept
    before = attempts(out)
    output = finish(start(out, *GRID, "--seeds=4", f"--ray-address={cluster}"))
    assert "8 of 8 trials are done." in output
    after = attempts(out)
    new = {"sac.hidden_width=8/seed_3", "sac.hidden_width=16/seed_3"}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before
    assert set(re.findall(r"(\S+): running", output)) == new


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Ctrl-C in a sweep on a cluster of its own; one of its two trials cannot but fail."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "my_envs.py").write_text(ENVS)
    out = folder / "sweep"
    more = ["--grid=env=my_envs:Fine-v0,my_envs:Nan-v0"]
    process = start(out, *more, paths=[folder], total_steps=LONG)
    checkpoints = out / "env=my_envs_Fine-v0" / "seed_0" / "checkpoints"
    wait_for(lambda: list(checkpoints.glob("latest_*")), process)
    started = psutil.Process(process.pid).children(recursive=True)
    names = {each.name() for each in started}
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = finish(process, status=130)
    left = [each for each in started if is_alive(each)]
    again = finish(start(out, *more, paths=[folder], total_steps=LONG), status=1)
    return out, output, (names, left), again


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_says_how_to_continue(interrupted):
    out, output, (names, left), _ = interrupted
    assert names >= {"raylet", "ray::run", "train.py"}
    assert left == []
    assert "Interrupted. Continue with\n  python sweep.py --config=" in output
    assert output.rstrip().endswith(f"--out={out}")
    assert processes(out) == []


@pytest.mark.slow
def test_the_interrupted_sweep_continues_from_its_checkpoints(interrupted):
    out, _, _, again = interrupted
    log = (out / "env=my_envs_Fine-v0" / "seed_0" / "log.txt").read_text()
    assert "Resuming at step" in log
    assert "env=my_envs_Fine-v0/seed_0: done" in again


@pytest.mark.slow
def test_a_failing_trial_is_reported_at_the_end_and_stops_no_other(interrupted):
    out, _, _, again = interrupted
    assert "env=my_envs_Nan-v0/seed_0: failed" in again
    summary = again[again.index("env=my_envs_Nan-v0/seed_0 failed at step 164") :]
    assert "(exit status 2, 1 attempt)" in summary
    assert "  python train.py --config=" in summary
    assert f"the end of {out}/env=my_envs_Nan-v0/seed_0/log.txt:" in summary
    assert "    | error: my_envs:Nan-v0" in summary
    assert "1 of 2 trials are done." in summary
    assert summary.rstrip().endswith(shlex.join(["python", "report.py", str(out)]))
    assert metrics.read(out / "env=my_envs_Fine-v0" / "seed_0")[0]["env_step"].iloc[-1] == LONG


@pytest.mark.slow
def test_what_no_node_has_is_refused_at_once(cluster, tmp_path):
    output = finish(
        start(tmp_path, "--cpus-per-trial=2", f"--ray-address={cluster}"),
        status=2,
    )
    assert "a trial needs --cpus-per-trial=2" in output
    assert "The cluster has 2: 1 CPUs and 0 GPUs." in output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seds=3"], "--seds: no such flag. Did you mean --seeds?"),
        (["--grid=algo"], "is not field=value"),
        (["--grid=config.sac.width=8"], "Did you mean --config.sac.hidden_width?"),
        (["--grid=sac.hidden_width=0,8"], "1 of 2 points of the grid are refused"),
        (["--config.num_seeds=3"], "pass --seeds"),
        (["here"], "unexpected argument 'here'"),
        (["--ray-address=nowhere"], "--ray-address=nowhere: no connection"),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # when Ray is imported
def test_mistakes_are_found_before_anything_starts(more, words, tmp_path):
    out = tmp_path / "sweep"
    with pytest.raises(UserError) as error:
        sweep.main(arguments(out, *more))
    assert words in str(error.value)
    assert not list(out.glob("*/*"))


@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_a_number_of_seeds_that_makes_no_sense_is_refused(value, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        sweep.main(["--out", str(tmp_path), "--seeds", value])
    assert exit_.value.code == 2
    assert "--seeds" in capsys.readouterr().err
