"""How far the trials of a sweep are, read from their folders: cheap enough to do every second."""

import contextlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from experiment import metrics, sweep_trial
from experiment.run_folder import REPORT_FILE
from experiment.sweep_plan import Trial

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
_TAIL_BYTES = 1 << 14  # many times the length of a row of metrics
_COLUMNS = ("env_step", "wall_clock", "eval/return")


@dataclass
class Status:
    """What is known about a trial while its sweep runs."""

    trial: Trial
    state: str = WAITING
    attempts: int = 0  # starts of train.py by this call of sweep.py
    host: str = ""
    started: float = math.nan  # of the last attempt, seconds since 1970
    seconds: float = 0.0  # of training; while it runs, since its last start
    step: int = 0  # environment steps per seed
    last_return: float = math.nan  # mean over the seeds of the last evaluation
    problem: str = ""  # why it failed

    @property
    def label(self) -> str:
        """The state in words, retries counted."""
        retries = self.attempts - 1
        return f"retry {retries}" if self.state == RUNNING and retries else self.state

    def read(self, sweep: str = "") -> None:
        """Brings the figures up to date.

        Args:
          sweep: identifies the call of sweep.py whose attempts count.
        """
        self.step, self.seconds, self.last_return = _last_rows(self.trial)
        attempts = []
        with contextlib.suppress(OSError):  # a network file system may fail for a second
            attempts = sweep_trial.read_attempts(self.trial.folder)
        attempts = [attempt for attempt in attempts if attempt.sweep == sweep]
        if attempts:
            self.attempts, self.host = len(attempts), attempts[-1].host
            self.started = attempts[-1].started
            if self.state == WAITING:
                self.state = RUNNING
        if self.state == RUNNING:
            self.seconds = time.time() - self.started


def is_finished(trial: Trial) -> bool:
    """Whether a trial has trained to its end and written its report."""
    done = (trial.folder / REPORT_FILE).exists()
    return done and _last_rows(trial)[0] == trial.total_steps


def last_lines(trial: Trial, count: int) -> list[str]:
    """Returns the end of the log of a trial."""
    return _tail(trial.folder / sweep_trial.LOG_FILE).splitlines()[-count:]


def _last_rows(trial: Trial) -> tuple[int, float, float]:
    """Returns environment steps per seed, seconds of training and mean return at the last epoch."""
    tails = [_tail(trial.folder / "metrics" / f"{metrics.EPOCHS}_{k}.csv") for k in trial.seeds]
    rows = [_last_row(text) for text in tails]
    if not all(rows):
        return 0, 0.0, math.nan
    steps, seconds, returns = zip(*rows)
    return int(min(steps)), max(seconds), sum(returns) / len(returns)


def _last_row(text: str) -> list[float]:
    """Returns the `_COLUMNS` of the last complete row; nothing if there is none yet."""
    lines = text.rpartition("\n")[0].splitlines()
    if len(lines) < 2:  # the first is the header, or the rest of a row
        return []
    cells = dict(zip(metrics.FIRST_COLUMNS, lines[-1].split(",")))
    try:
        return [float(cells[name] or "nan") for name in _COLUMNS]
    except (KeyError, ValueError):  # damaged
        return []


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
