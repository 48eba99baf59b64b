import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

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
    assert sweep_trial.wait_until_free(tmp_path / "absent")
    (tmp_path / ".lock").write_text("4711")
    assert sweep_trial.wait_until_free(tmp_path)
    with open(tmp_path / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, [held, fcntl.LOCK_UN]).start()
        start = time.monotonic()
        assert sweep_trial.wait_until_free(tmp_path)
        assert 0.3 < time.monotonic() - start < 5
    assert (tmp_path / ".lock").read_text() == "4711"


def test_a_folder_that_stays_in_use_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_trial, "_LOCKED_SECONDS", 0.2)
    with open(tmp_path / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not sweep_trial.wait_until_free(tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_attempts_are_kept_in_order(tmp_path, count):
    attempts = [sweep_trial.Attempt("s", f"h{k}", "n", float(k)) for k in range(count)]
    if count:
        sweep_trial.write_attempts(tmp_path, attempts)
    assert sweep_trial.read_attempts(tmp_path) == attempts
