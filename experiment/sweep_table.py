"""What a user sees of a sweep: one live table in a terminal, else one line per change of state."""

import collections
import itertools
import math
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiment.progress import duration
from experiment.sweep_progress import DONE, FAILED, RUNNING, WAITING, Status

_COLORS = {WAITING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "red"}
_FRAME_LINES = 5  # header, rules and the line below the table
_RIGHT = {"step", "last return", "time"}


class SweepTable:
    """The table of a sweep; a context manager."""

    def __init__(self, statuses: Sequence[Status]) -> None:
        """Shows nothing yet.

        Args:
          statuses: of all trials, finished ones included; the caller keeps them up to date.
        """
        self._statuses = statuses
        self._start = time.monotonic()
        self._fraction_at_start = _fraction(statuses)
        self._shown = {s.trial.name: s.label for s in statuses}
        self._console = Console(file=sys.stdout)
        self._live: Live | None = None

    def __enter__(self) -> "SweepTable":
        if sys.stdout.isatty():
            self._live = Live(self._render(), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            self._live.stop()

    def refresh(self) -> None:
        """Shows the statuses as they are now."""
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            return
        for status in self._statuses:
            if status.label != self._shown[status.trial.name]:
                self._shown[status.trial.name] = status.label
                print(f"{_line(status)} | {self._total()}", flush=True)

    def _render(self) -> Group:
        fits = len(self._statuses) + _FRAME_LINES <= self._console.height
        table = _trial_table(self._statuses) if fits else _label_table(self._statuses)
        return Group(table, Text(self._total()))

    def _total(self) -> str:
        states = collections.Counter(s.state for s in self._statuses)
        finished = f"{states[DONE]} of {len(self._statuses)} trials done"
        failed = f", {states[FAILED]} failed" if states[FAILED] else ""
        return f"{finished}{failed} | {self._time_left()}"

    def _time_left(self) -> str:
        spent = time.monotonic() - self._start
        fraction = _fraction(self._statuses)
        gained = fraction - self._fraction_at_start
        if fraction == 1:
            return f"took {duration(spent)}"
        left = duration(spent * (1 - fraction) / gained) if gained > 0 else "?"
        return f"{duration(spent)} so far, {left} left"


def _trial_table(statuses: Iterable[Status]) -> Table:
    table = _table("trial", "seeds", "state", "node", "step", "last return", "time")
    for s in statuses:
        table.add_row(
            s.trial.label,
            _seeds(s),
            Text(s.label, _COLORS[s.state]),
            s.host,
            f"{s.step:,} of {s.trial.total_steps:,}",
            _number(s.last_return),
            duration(s.seconds) if s.seconds else "",
        )
    return table


def _label_table(statuses: Iterable[Status]) -> Table:
    """Returns the table with one row per grid point, for sweeps that do not fit the screen."""
    table = _table("trials", "state", "step", "last return")
    for label, group in itertools.groupby(statuses, lambda s: s.trial.label):
        members = list(group)
        states = collections.Counter(s.state for s in members)
        words = [Text(f"{states[name]} {name}", _COLORS[name]) for name in _COLORS if states[name]]
        returns = [s.last_return for s in members if not math.isnan(s.last_return)]
        total = members[0].trial.total_steps
        table.add_row(
            label,
            Text(", ").join(words),
            f"{sum(s.step for s in members) / len(members):,.0f} of {total:,}",
            _number(sum(returns) / len(returns) if returns else math.nan),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for name in columns:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    return table


def _line(status: Status) -> str:
    parts = [
        time.strftime("%H:%M:%S"),
        f"{status.trial.name}: {status.label}",
        f"on {status.host}" if status.state == RUNNING else "",
        f"return {_number(status.last_return)}" if status.state == DONE else "",
    ]
    return " | ".join(filter(None, parts))


def _seeds(status: Status) -> str:
    first, last = status.trial.seeds[0], status.trial.seeds[-1]
    return str(first) if first == last else f"{first} to {last}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.1f}"


def _fraction(statuses: Iterable[Status]) -> float:
    """Returns the share of the work that is done; nothing more comes from a failed trial."""
    shares = [1.0 if s.state in (DONE, FAILED) else s.step / s.trial.total_steps for s in statuses]
    return sum(shares) / len(shares)
