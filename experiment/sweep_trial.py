"""One trial: train.py as a process of its own, started on whatever machine Ray chose.

A trial's folder is the run folder of train.py with two files more, `log.txt` with what train.py
printed and `trial.json` with the attempts. This runs inside Ray's workers, so imports stay light.
"""

import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from errors import UserError
from experiment import die_with_parent
from experiment.files import write_text_atomically
from experiment.run_folder import LOCK_FILE

LOG_FILE, ATTEMPTS_FILE = "log.txt", "trial.json"
_LOCKED_SECONDS = 60.0  # a process that was killed gives its memory back before its lock
_TRAIN = Path(__file__).resolve().parents[1] / "train.py"


class KilledError(Exception):
    """train.py was ended by a signal, for example for lack of memory: worth another attempt."""


class Attempt(NamedTuple):
    """One start of train.py."""

    sweep: str  # identifies the call of sweep.py that it belongs to
    host: str
    node: str  # Ray's id of the node
    started: float  # seconds since 1970


def run(
    arguments: Sequence[str], folder: Path, directory: Path, environment: dict[str, str], sweep: str
) -> int:
    """Runs train.py to its end, from its last checkpoint if it has one; a task of Ray.

    Args:
      arguments: of train.py.
      folder: its run folder, absolute.
      directory: where it runs.
      environment: variables that it gets besides those of this process.
      sweep: identifies the call of sweep.py.

    Returns:
      Its exit status.

    Raises:
      KilledError: a signal ended it.
      UserError: another process is using the folder, and goes on doing so; train.py is not started.
    """
    import ray

    folder.mkdir(parents=True, exist_ok=True)
    node = ray.get_runtime_context().get_node_id()
    attempt = Attempt(sweep, socket.gethostname(), node, time.time())
    wait_until_free(folder)
    write_attempts(folder, [*read_attempts(folder), attempt])
    command = [sys.executable, str(_TRAIN), *arguments]
    guard = [sys.executable, die_with_parent.__file__, str(os.getpid())]
    with open(folder / LOG_FILE, "a") as log:
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        log.write(f"{date} on {attempt.host}: {shlex.join(command)}\n")
        log.flush()
        process = subprocess.run(
            [*guard, *command],
            cwd=directory,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if process.returncode < 0:
        raise KilledError(f"killed by {signal.Signals(-process.returncode).name}")
    return process.returncode


def variables(cpus: int, gpus: float) -> dict[str, str]:
    """Returns the environment variables that keep train.py to its share of a machine.

    Args:
      cpus: its CPU cores.
      gpus: its GPUs; none: it runs on the CPU even if there is one.
    """
    # The first two size the thread pools of XLA's CPU backend.
    threads = dict.fromkeys(("NPROC", "PJRT_NPROC", "OMP_NUM_THREADS"), str(cpus))
    if not gpus:
        return threads | {"JAX_PLATFORMS": "cpu"}
    if gpus < 1:  # by default JAX takes three quarters of a GPU at once
        return threads | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * gpus:.3f}"}
    return threads


def wait_until_free(folder: Path) -> None:
    """Waits until no process uses a run folder.

    Raises:
      UserError: one still does after a minute.
    """
    deadline = time.monotonic() + _LOCKED_SECONDS
    while _is_locked(folder):
        if time.monotonic() > deadline:
            owner = (folder / LOCK_FILE).read_text().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by another process (id {owner}, here or on another machine): "
                "stop it or wait for its end, then repeat the command"
            )
        time.sleep(0.1)


def write_attempts(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Replaces the list of attempts at the trial in a folder."""
    content = [attempt._asdict() for attempt in attempts]
    write_text_atomically(folder / ATTEMPTS_FILE, json.dumps(content, indent=2) + "\n")


def read_attempts(folder: Path) -> list[Attempt]:
    """Returns all attempts at the trial in a folder, in order.

    None if the list is damaged or from another version: only progress is shown from it.
    """
    try:
        attempts = json.loads((folder / ATTEMPTS_FILE).read_text())
        return [Attempt(**attempt) for attempt in attempts]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def _is_locked(folder: Path) -> bool:
    try:
        with open(folder / LOCK_FILE, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
