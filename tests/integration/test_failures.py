"""What goes wrong while training: one clear message, status 2, the last checkpoint kept."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiment import metrics, run_folder, storage
from tests.integration import tiny

CONFIGS = tiny.REPOSITORY / "configs"
SAC = [f"--config={CONFIGS / 'sac.py'}", "--config.num_seeds=1"]
ONE_EPOCH = {"total_steps": 100, "replay_capacity": 400}

ENVS = """
import gc, signal
import gymnasium, numpy as np
from envs import register, terminations

def ctrl_c(phase, info):
    gc.callbacks.remove(ctrl_c)
    signal.raise_signal(signal.SIGINT)

class Env(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)

    def __init__(self, kind):
        self.kind, self.total = kind, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.time += 1
        self.total += 1
        reward = 1e38 if self.kind == "large" else 1.0
        if self.kind == "nan" and self.total == 200:
            reward = float("nan")
        if self.kind == "interrupted" and self.total == 200:
            gc.callbacks.append(ctrl_c)
            gc.collect()
        return self.np_random.random(2, np.float32), reward, False, self.time == 30, {}

for kind in ("large", "nan", "interrupted"):
    register(f"{kind.title()}-v0", termination=terminations.never, make=lambda kind=kind: Env(kind))
"""


def last_checkpoint(workdir):
    """Returns the step of the newest checkpoint."""
    newest = max((workdir / "checkpoints").glob("latest_*"))
    return storage.restore_dict(newest / "values")["step"]


def assert_refused(result, *parts):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.count("error: ") == 1
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short finished run of SAC."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = tiny.train(*SAC, *tiny.flags(**ONE_EPOCH), f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture
def modules(tmp_path):
    """A folder with the module my_envs."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "my_envs.py").write_text(ENVS)
    return folder


def test_another_configuration_in_the_same_folder_lists_what_differs(finished):
    changes = ONE_EPOCH | {"sac.batch_size": 17, "discount": 0.5}
    before = (finished / "metrics" / "seed_0.csv").read_bytes()
    result = tiny.train(*SAC, *tiny.flags(**changes), f"--workdir={finished}")
    assert_refused(result, "sac.batch_size", "17", "16", "discount", "0.5", "0.99", "--workdir")
    assert "epoch_length" not in result.stderr
    assert (finished / "metrics" / "seed_0.csv").read_bytes() == before


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "/sys/run"])
def test_a_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    workdir = tmp_path / place  # an absolute place replaces tmp_path
    result = tiny.train(*SAC, *tiny.flags(**ONE_EPOCH), f"--workdir={workdir}")
    assert_refused(result, str(workdir), "hoose another")


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 300_000])
def test_a_full_disk_keeps_the_last_checkpoint(small_disk, modules, tmp_path, free):
    """With 300 kB left there is room for metrics but not for a checkpoint."""
    command = [*SAC, *tiny.flags(total_steps=300), "--config.env=my_envs:Interrupted-v0"]
    workdir, elsewhere = small_disk / "run", tmp_path / "elsewhere"
    result = tiny.train(*command, f"--workdir={workdir}", paths=[modules])
    assert result.returncode == 130, result.stderr  # at step 200
    shutil.copytree(workdir, elsewhere)
    ballast = small_disk / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - free)
    checkpoints = {path.name for path in (workdir / "checkpoints").iterdir()}

    result = tiny.train(*command, f"--workdir={workdir}", paths=[modules])
    assert_refused(result, "could not be written", "space", str(workdir))
    if free:
        assert "A checkpoint" in result.stderr
        assert "The previous one of step 164 is intact" in result.stderr
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == checkpoints

    ballast.unlink()
    result = tiny.train(*command, f"--workdir={workdir}", paths=[modules])
    assert result.returncode == 0, result.stderr
    assert "Resuming at step 164 of 300" in result.stdout
    assert tiny.train(*command, f"--workdir={elsewhere}", paths=[modules]).returncode == 0
    actual, expected = metrics.read(workdir)[0], metrics.read(elsewhere)[0]
    assert actual["env_step"].tolist() == [64, 164, 264, 300]
    for name in expected:
        if name != "wall_clock" and not name.startswith("time/"):
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_a_reward_that_is_not_a_number_names_environment_and_step(modules, tmp_path):
    workdir = tmp_path / "run"
    result = tiny.train(
        *SAC,
        *tiny.flags(total_steps=264),
        "--config.env=my_envs:Nan-v0",
        f"--workdir={workdir}",
        paths=[modules],
    )
    # episodes have 30 steps: the 200th step is the 20th of episode 6
    assert_refused(result, "my_envs:Nan-v0", "seed 0, episode 6, step 20", "reward nan")
    assert metrics.read(workdir)[0]["env_step"].tolist() == [64, 164]
    assert last_checkpoint(workdir) == 164


@pytest.mark.slow
def test_ctrl_c_during_garbage_collection_is_not_lost(modules, tmp_path):
    # Python drops exceptions raised there, and JAX has a callback there, in which Ctrl-C may land.
    result = tiny.train(
        *SAC,
        *tiny.flags(total_steps=1064),
        "--config.env=my_envs:Interrupted-v0",
        f"--workdir={tmp_path / 'run'}",
        paths=[modules],
    )
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert "Interrupted. Continue from the last checkpoint" in result.stderr


def diverge(workdir, *arguments, modules=(), step=164):
    """The metric is named at the end of an epoch, or earlier if the policy's action is NaN."""
    result = tiny.train(
        *SAC,
        *tiny.flags(total_steps=264),
        *arguments,
        f"--workdir={workdir}",
        paths=modules,
        cwd=workdir.parent,  # MuJoCo writes its warnings into the current folder
    )
    assert_refused(result, f"not finite at step {step}", "diverged", str(workdir / "checkpoints"))
    assert re.search(r"(critic|policy)/\w+ of seed 0", result.stderr)
    table = metrics.read(workdir)[0]
    assert table["env_step"].tolist() == [64, step] if step == 164 else [64]
    assert step < 164 or not np.isfinite(table["critic/loss"][1])
    assert last_checkpoint(workdir) == 64


def test_training_that_diverges_names_the_metric(tmp_path):
    diverge(tmp_path / "run", "--config.sac.learning_rate=1e30", step=65)


def test_rewards_too_large_to_be_squared_name_the_metric(modules, tmp_path):
    diverge(tmp_path / "run", "--config.env=my_envs:Large-v0", modules=[modules])


@pytest.mark.slow
def test_a_model_that_diverges_names_the_metric(tmp_path):
    workdir = tmp_path / "run"
    result = tiny.train(
        f"--config={CONFIGS / 'mbpo.py'}",
        "--config.num_seeds=1",
        *tiny.flags(total_steps=264, **{"model.learning_rate": 1e30}),
        f"--workdir={workdir}",
    )
    assert_refused(result, "not finite at step 164", "model/", str(workdir / "checkpoints"))
    assert last_checkpoint(workdir) == 64


def test_two_processes_cannot_share_a_folder(finished):
    config = run_folder.read_config(finished)["config"]
    run_folder.open_run(finished, config, {})
    try:
        result = tiny.train(*SAC, *tiny.flags(**ONE_EPOCH), f"--workdir={finished}")
    finally:
        run_folder.close_run(finished)
    assert_refused(result, "in use by another process", str(os.getpid()))
