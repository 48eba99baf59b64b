"""What a user sees while a run is going on: a bar in a terminal, else one line per epoch."""

import collections
import math
import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

RETURN, RETURN_STD = "eval/return", "eval/return_std"
MODEL_ERROR = "model/holdout_mse"
ROLLOUT_LENGTH = "rollout/length"
_REFRESH_SECONDS = 0.25
_SPEED_WINDOW_SECONDS = 60.0  # long enough to average over model fits


class Progress:
    """Progress of one run; a context manager.

    A terminal shows a bar with a line of figures below it. Without one, each epoch prints one line.
    """

    def __init__(self, total_steps: int, start_step: int, description: str) -> None:
        """Shows nothing yet.

        Args:
          total_steps: environment steps per seed at the end.
          start_step: those already done when a run resumes, else 0.
          description: what runs, e.g. "mbpo on Hopper-v5".
        """
        self._total = total_steps
        self._step = start_step
        self._description = description
        self._epoch = 0
        self._figures = ""
        self._next_refresh = 0.0
        self._samples = collections.deque([(time.monotonic(), start_step)])
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        self._samples = collections.deque([(time.monotonic(), self._step)])
        if sys.stdout.isatty():
            console = Console(file=sys.stdout)
            self._live = Live(self._render(), console=console, auto_refresh=False)
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
            self._live = None

    def advance(self, env_step: int) -> None:
        """Notes that `env_step` environment steps are done; cheap enough for every step."""
        self._step = env_step
        if time.monotonic() >= self._next_refresh:
            self._refresh()

    def learning_begins(self) -> None:
        """Forgets how fast exploration was, which learning is slower than."""
        self._samples.clear()
        self._sample()

    def epoch(
        self,
        number: int,
        env_step: int,
        row: dict[str, float],
        time_split: dict[str, float],
        return_std_over_seeds: float | None = None,
    ) -> None:
        """Shows the figures of a finished epoch.

        Args:
          number: epochs of learning so far; 0, if it is shown at all, is the untrained policy.
          env_step: environment steps per seed so far.
          row: metrics averaged over seeds; what is missing is not shown.
          time_split: seconds per part of the epoch.
          return_std_over_seeds: spread of the evaluation return between seeds; None: the spread
            between episodes in `row` is shown instead.
        """
        self._epoch, self._step = number, env_step
        if number == 0:
            self.learning_begins()
        row = dict(row)
        if return_std_over_seeds is not None:
            row[RETURN_STD] = return_std_over_seeds
        self._sample()
        self._figures = " | ".join([*_figures(row), *_time_split(time_split)])
        if self._live is None:
            print(self._plain_line(), flush=True)
        else:
            self._refresh()

    def _refresh(self) -> None:
        self._next_refresh = time.monotonic() + _REFRESH_SECONDS
        if self._live is not None:
            self._sample()
            self._live.update(self._render(), refresh=True)

    def _sample(self) -> None:
        now = time.monotonic()
        self._samples.append((now, self._step))
        while len(self._samples) > 2 and self._samples[1][0] < now - _SPEED_WINDOW_SECONDS:
            self._samples.popleft()

    def _speed(self) -> float:
        """Returns recent environment steps per second and seed, 0 while unknown."""
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def _pace(self) -> str:
        speed = self._speed()
        left = duration((self._total - self._step) / speed) if speed > 0 else "?"
        return f"{speed:.3g} steps/s | {left} left"

    def _plain_line(self) -> str:
        parts = [f"step {self._step}/{self._total}", self._pace(), self._figures]
        return f"epoch {self._epoch} | " + " | ".join(part for part in parts if part)

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            self._description,
            ProgressBar(total=self._total, completed=self._step, width=30),
            f"epoch {self._epoch} | step {self._step}/{self._total} | {self._pace()}",
        )
        return Group(bar, Text(self._figures)) if self._figures else Group(bar)


def _figures(row: dict[str, float]) -> list[str]:
    parts = []
    if math.isfinite(row.get(RETURN, math.nan)):
        parts.append(f"return {row[RETURN]:.1f}")
        if math.isfinite(row.get(RETURN_STD, math.nan)):
            parts[-1] += f" ± {row[RETURN_STD]:.1f}"
    if math.isfinite(row.get(MODEL_ERROR, math.nan)):
        parts.append(f"model error {row[MODEL_ERROR]:.3g}")
    if math.isfinite(row.get(ROLLOUT_LENGTH, math.nan)):
        parts.append(f"rollout length {row[ROLLOUT_LENGTH]:g}")
    return parts


def _time_split(seconds: dict[str, float]) -> list[str]:
    total = sum(seconds.values())
    if total <= 0:
        return []
    shares = sorted(((s / total, name) for name, s in seconds.items()), reverse=True)
    return [
        ", ".join(
            f"{name.removeprefix('time/')} {share:.0%}" for share, name in shares if share >= 0.005
        )
    ]


def duration(seconds: float) -> str:
    """Returns a length of time as `h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
