import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from errors import UserError
from experiment import die_with_parent, sweep_trial

# Starts a program that lives as long as this one, says its id, and waits.
PARENT = """
import os, subprocess, sys, time
child = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
process = subprocess.Popen([sys.executable, sys.argv[1], sys.argv[2] or str(os.getpid()), *child])
print(process.pid, flush=True)
print(process.wait(), flush=True)
"""


def start(parent_id=""):
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, die_with_parent.__file__, parent_id],
        stdout=subprocess.PIPE,
        text=True,
    )


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_process_dies_with_its_parent():
    with start() as parent:
        lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        assert "up" in lines
        (pid,) = lines - {"up"}
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 5
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_process_does_not_start_when_its_parent_is_gone_already():
    # Whoever is the parent now is not the one that was to be.
    with start(parent_id=str(os.getpid())) as parent:
        output, _ = parent.communicate(timeout=20)
    assert output.splitlines()[1:] == [str(-signal.SIGKILL)]


def test_a_folder_is_waited_for_until_its_process_lets_go(tmp_path):
    sweep_trial.wait_until_free(tmp_path / "absent")
    (tmp_path / ".lock").write_text("4711")
    sweep_trial.wait_until_free(tmp_path)
    with open(tmp_path / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, [held, fcntl.LOCK_UN]).start()
        start = time.monotonic()
        sweep_trial.wait_until_free(tmp_path)
        assert 0.3 < time.monotonic() - start < 5
    assert (tmp_path / ".lock").read_text() == "4711"


@pytest.fixture
def ray(monkeypatch):
    """What a trial asks of Ray, without a cluster."""
    context = types.SimpleNamespace(get_node_id=lambda: "node")
    module = types.SimpleNamespace(get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", module)


def run(folder, arguments):
    return sweep_trial.run(arguments, folder, Path.cwd(), {"JAX_PLATFORMS": "cpu"}, "now")


@pytest.mark.parametrize(("written", "owner"), [("4711", "4711"), ("", "unknown")])
def test_in_a_folder_that_stays_in_use_nothing_starts(ray, tmp_path, monkeypatch, written, owner):
    monkeypatch.setattr(sweep_trial, "_LOCKED_SECONDS", 0.2)
    (tmp_path / ".lock").write_text(written)
    with open(tmp_path / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError) as error:
            run(tmp_path, ["--help"])
    assert f"{tmp_path} is in use by another process (id {owner}" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


DAMAGED = ["", "{", "5", "[5]", '[{"sweep": "s"}]', '[{"sweep": "s", "newer": 1}]', "\xff"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_list_of_attempts_counts_as_none(tmp_path, content):
    (tmp_path / "trial.json").write_bytes(content.encode("latin-1"))
    assert sweep_trial.read_attempts(tmp_path) == []


def test_a_trial_with_a_damaged_list_of_attempts_starts_a_new_one(ray, tmp_path):
    (tmp_path / "trial.json").write_text("{")
    assert run(tmp_path, ["--no_such_flag"]) == 2
    (attempt,) = sweep_trial.read_attempts(tmp_path)
    assert (attempt.sweep, attempt.node) == ("now", "node")
    log = (tmp_path / "log.txt").read_text()
    assert "train.py --no_such_flag\n" in log
    assert "Unknown command line flag 'no_such_flag'" in log


@pytest.mark.parametrize("count", [0, 1, 2])
def test_attempts_are_kept_in_order(tmp_path, count):
    attempts = [sweep_trial.Attempt("s", f"h{k}", "n", float(k)) for k in range(count)]
    if count:
        sweep_trial.write_attempts(tmp_path, attempts)
    assert sweep_trial.read_attempts(tmp_path) == attempts
