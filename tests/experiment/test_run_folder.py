import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from errors import UserError
from experiment import run_folder
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.run_folder import close_run, describe_environment, open_run, read_config

ROOT = Path(__file__).parents[2]
CONFIG = {
    "env": "Hopper-v5",
    "total_steps": 1000,
    "model": {"num_members": 7, "weight_decay": (1e-5, 2e-5), "bootstrap": True},
    "rollout": {"filter": None},
}


@pytest.fixture
def workdir(tmp_path):
    yield tmp_path / "runs" / "one"
    close_run(tmp_path / "runs" / "one")


def changed(**fields):
    config = json.loads(json.dumps(CONFIG))
    for name, value in fields.items():
        *blocks, last = name.split("__")
        block = config
        for part in blocks:
            block = block[part]
        block[last] = value
    return config


def test_first_call_creates_and_second_resumes(workdir):
    assert open_run(workdir, CONFIG, {"date": "today"}) is False
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["environment"] == {"date": "today", "env": "Hopper-v5"}
    assert stored["config"]["model"]["weight_decay"] == [1e-5, 2e-5]
    assert open_run(workdir, CONFIG, {"date": "tomorrow"}) is True
    assert read_config(workdir) == stored


def test_every_differing_field_is_listed_in_order(workdir):
    open_run(workdir, CONFIG, {})
    other = changed(
        total_steps=500, model__num_members=5, rollout__filter="flow", model__bootstrap=False
    )
    other["extra"] = 1
    del other["env"]
    with pytest.raises(UserError) as error:
        open_run(workdir, other, {})
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [
        f'  env: in {workdir} "Hopper-v5", given (absent)',
        f"  extra: in {workdir} (absent), given 1",
        f"  model.bootstrap: in {workdir} true, given false",
        f"  model.num_members: in {workdir} 7, given 5",
        f'  rollout.filter: in {workdir} null, given "flow"',
        f"  total_steps: in {workdir} 1000, given 500",
    ]
    assert "--workdir" in lines[-1]
    assert read_config(workdir)["config"] == changed()


def test_a_resumed_run_may_log_and_save_differently(workdir):
    stored = CONFIG | {"logging": {"wandb": "off"}, "checkpoint": {"every_epochs": 1}}
    given = CONFIG | {"logging": {"wandb": "offline"}, "checkpoint": {"every_epochs": 5}}
    open_run(workdir, stored, {})
    assert open_run(workdir, given, {}) is True


def test_more_steps_are_another_run(workdir):
    # replays are sized by them
    open_run(workdir, CONFIG, {})
    with pytest.raises(UserError, match="total_steps"):
        open_run(workdir, changed(total_steps=2000), {})


_HOLD = """
import sys, time
from pathlib import Path
from experiment.run_folder import open_run
open_run(Path(sys.argv[1]), {"env": "Hopper-v5"}, {})
print("open", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_ends(workdir):
    command = [sys.executable, "-c", _HOLD, str(workdir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(UserError, match=rf"in use by another process \(id {process.pid}\)"):
                open_run(workdir, {"env": "Hopper-v5"}, {})
        finally:
            process.kill()
            process.wait()
    assert open_run(workdir, {"env": "Hopper-v5"}, {}) is True


def test_a_folder_removed_and_made_again_is_locked_again(workdir):
    open_run(workdir, CONFIG, {})
    for path in workdir.iterdir():
        path.unlink()
    workdir.rmdir()
    assert open_run(workdir, CONFIG, {}) is False
    held = run_folder._locks[workdir.resolve()]
    assert Path(f"/proc/self/fd/{held.fileno()}").resolve() == (workdir / ".lock").resolve()


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="Remove it or choose another folder"):
            open_run(workdir, CONFIG, {})


def test_a_folder_that_the_kernel_refuses_is_a_user_error():
    with pytest.raises(UserError, match="/proc/run: there is no such folder, and it cannot be"):
        open_run(Path("/proc/run"), CONFIG, {})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"git": {"commit": "abc1234567", "dirty": True}, "versions": {"jax": "0.10.2"}},
            "another version (commit abc1234, jax 0.10.2)",
        ),
        ({"git": None, "versions": {"jax": None}}, "another version (commit unknown, jax unknown)"),
        ({"git": "x"}, "another version (commit unknown, jax unknown)"),
    ],
)
def test_another_version_is_named_as_far_as_it_is_known(environment, expected):
    assert run_folder.another_version(environment) == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}'])
def test_damaged_config_is_a_user_error(workdir, content):
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        open_run(workdir, CONFIG, {})


def test_environment_names_versions_code_and_hardware():
    described = describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["versions"]["jax"] == jax.__version__
    assert described["versions"]["python"] == platform.python_version()
    assert set(described["versions"]) == {"python", *run_folder.PACKAGES}
    assert len(described["hardware"]["devices"]) == len(jax.devices())
    assert described["hardware"]["cores"] >= 1
    assert described["hardware"]["memory_gib"] > 0.1
    assert described["date"][:2] == "20"


def test_git_state_tells_commit_and_changes(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    assert run_folder._git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert run_folder._git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert run_folder._git_state(tmp_path) == {"commit": commit, "dirty": True}
    assert run_folder._git_state(Path("/")) is None


def test_atomic_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "one")
    write_text_atomically(path, "zwei ±")
    assert path.read_text() == "zwei ±"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(FileNotFoundError):
        write_text_atomically(tmp_path / "absent" / "a", "x")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "you may not write there.*choose another folder"),
        (errno.EROFS, "you may not write there"),
        (errno.ENOSPC, r"no space left \(\d+\.\d [MG]iB free\)"),
        (errno.EDQUOT, "no space left"),
    ],
)
def test_disk_problems_name_the_folder_and_the_remedy(tmp_path, code, words):
    folder = tmp_path / "absent"
    with (
        pytest.raises(UserError, match=rf"The thing could not be written to {folder}: .*{words}"),
        disk_problems_as_user_errors(folder, "The thing"),
    ):
        raise OSError(code, os.strerror(code))


def test_other_errors_pass_unchanged(tmp_path):
    with (
        pytest.raises(FileNotFoundError),
        disk_problems_as_user_errors(tmp_path, "The thing"),
    ):
        raise FileNotFoundError(errno.ENOENT, "gone")
