"""Running the parts of a study as programs of their own, so that each can be resumed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from experiment import die_with_parent, metrics, run_folder  # noqa: E402
from experiment.command_line import INTERRUPTED  # noqa: E402
from experiment.files import disk_problems_as_user_errors, write_text_atomically  # noqa: E402
from experiment.seed_tables import STEP  # noqa: E402
from experiment.sweep_trial import LOG_FILE  # noqa: E402


def logged(command: list[str], folder: Path) -> str:
    """Runs a Python program, its output appended to a file of a folder.

    Args:
      command: the program's file and its arguments.
      folder: made if needed.

    Returns:
      What went wrong, "" if nothing did.

    Raises:
      UserError: the folder is not writable.
    """
    parent = [sys.executable, die_with_parent.__file__, str(os.getpid())]
    with disk_problems_as_user_errors(folder, "The log"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG_FILE, "a") as log:
            status = subprocess.run(
                [*parent, sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
    if status == INTERRUPTED:
        return "interrupted"
    return f"failed with exit status {status}, see {folder / LOG_FILE}" if status else ""


def on_own_cores(tasks: Sequence[Callable[[], str]]) -> list[str]:
    """Does tasks that start programs, as many at a time as there are cores.

    A program of one seed uses two cores less well than two programs a core each.

    Args:
      tasks: begun in this order. What a task starts has one core to itself.

    Returns:
      What the tasks return.

    Raises:
      Exception: what a task raises, or KeyboardInterrupt, when those under way have ended; no other
        is begun.
    """
    cores: SimpleQueue[int] = SimpleQueue()
    for core in os.sched_getaffinity(0):
        cores.put(core)

    def to_own_core() -> None:
        os.sched_setaffinity(0, {cores.get()})  # of this thread, and of what it starts

    with ThreadPoolExecutor(cores.qsize(), initializer=to_own_core) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            print("Interrupted: what is under way stops at its next step.", flush=True)
            raise
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a CSV file, and its folder if needed.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(path.parent, "The table"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, table.to_csv(index=False))


def copy(files: Iterable[str], source: Path, target: Path) -> None:
    """Copies those files of a folder that exist, with the folders they are in.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(target, "The copy"):
        for name in files:
            if (source / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target / name)


def is_finished(
    folder: Path, steps: int, seeds: int, settings: Mapping[str, Any] | None = None
) -> bool:
    """Whether a run folder has so many seeds and all of them have done so many steps.

    Args:
      folder: need not exist.
      steps: of the environment, per seed.
      seeds: how many.
      settings: dotted configuration field -> number or name; a run with another one is another
        run, not this one finished, and train.py refuses to go on with it. Other fields, whose
        defaults may have changed since, are not compared.

    Raises:
      UserError: `config.json` is missing or damaged.
    """
    frames = metrics.read(folder)
    ends = [int(frame[STEP].iloc[-1]) for frame in frames.values() if len(frame)]
    done = ends == [steps] * seeds
    if not done or not settings:
        return done
    config = run_folder.flatten(run_folder.read_config(folder)["config"])
    return all(config.get(name) == value for name, value in settings.items())
