"""The scalars of a run, one row per seed and epoch: CSV files, TensorBoard and Weights & Biases.

The CSV files are the record; everything drawn or written about a run is computed from them alone.
"""

import csv
import io
import math
import os
import types
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from errors import UserError
from experiment.files import disk_problems_as_user_errors, write_text_atomically

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

Row = dict[str, float]
FIRST_COLUMNS = ("env_step", "wall_clock", "eval/return", "eval/return_std", "eval/length")
WANDB_MODES = ("off", "offline", "online")


class MetricsWriter:
    """Appends rows of scalars; each `write` is on disk when it returns."""

    def __init__(
        self,
        workdir: Path,
        seeds: list[int],
        *,
        tensorboard: bool,
        wandb: str,
        wandb_project: str,
        config: dict[str, Any],
    ) -> None:
        """Continues the files in `workdir` if there are any; call `truncate` when resuming.

        Args:
          workdir: run folder.
          seeds: the seed of each row given to `write`, in order; they name the files.
          tensorboard: also write `tensorboard/seed_<k>/`.
          wandb: one of `WANDB_MODES`.
          wandb_project: project name there.
          config: the run's configuration, stored there.

        Raises:
          UserError: unknown `wandb` mode, wandb not installed, or the folder is not writable.
        """
        self._workdir = Path(workdir)
        self._files = [_csv_path(self._workdir, seed) for seed in seeds]
        self._seeds = seeds
        self._boards = _TensorBoard(self._workdir, seeds) if tensorboard else None
        self._wandb = _start_wandb(wandb, wandb_project, self._workdir, config)
        with self._disk_problems():
            (self._workdir / "metrics").mkdir(parents=True, exist_ok=True)
        self._columns = _common_columns(self._files)

    def write(self, env_step: int, rows: Sequence[Row]) -> None:
        """Appends one row per seed.

        Args:
          env_step: environment steps per seed so far.
          rows: one dictionary per seed; they should have the same names. A name that earlier rows
            lack adds a column, one that is missing now leaves an empty cell.

        Raises:
          UserError: the disk is full or not writable.
        """
        if len(rows) != len(self._seeds):
            raise ValueError(f"{len(self._seeds)} seeds, but {len(rows)} rows")
        rows = [{**row, "env_step": env_step} for row in rows]
        with self._disk_problems():
            self._ensure_columns(set().union(*rows))
            for path, row in zip(self._files, rows, strict=True):
                _append(path, _csv_line(_cell(row.get(name)) for name in self._columns))
            if self._boards is not None:
                self._boards.write(env_step, rows)
        if self._wandb is not None:
            named = zip(self._seeds, rows, strict=True)
            flat = {f"seed_{k}/{n}": v for k, row in named for n, v in row.items() if v is not None}
            self._wandb.log(flat, step=env_step)

    def truncate(self, env_step: int) -> None:
        """Forgets all rows after `env_step` (-1: all rows), and a row cut short by a kill.

        TensorBoard is told to hide its points after `env_step`.

        Raises:
          UserError: the disk is full or not writable.
        """
        with self._disk_problems():
            for path in self._files:
                if path.exists():
                    kept = [row for row in _rows(path) if int(row["env_step"]) <= env_step]
                    _rewrite(path, self._columns, kept)
        if self._boards is not None:
            self._boards.truncate(env_step)

    def close(self) -> None:
        """Finishes TensorBoard and Weights & Biases; the writer cannot be used afterwards."""
        if self._boards is not None:
            self._boards.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _ensure_columns(self, names: set[str]) -> None:
        if self._columns and names <= set(self._columns):
            missing = [path for path in self._files if not path.exists()]
        else:
            names |= {*FIRST_COLUMNS, *self._columns}
            self._columns = [*FIRST_COLUMNS, *sorted(names.difference(FIRST_COLUMNS))]
            missing = self._files
        for path in missing:
            _rewrite(path, self._columns, _rows(path) if path.exists() else [])

    def _disk_problems(self) -> Any:
        return disk_problems_as_user_errors(self._workdir, "The metrics")


def read(workdir: Path) -> dict[int, pd.DataFrame]:
    """Returns the metrics of every seed in a run folder, bit-identical to what was written.

    Returns:
      By seed in increasing order, a frame with one row per epoch; an empty cell is NaN.
    """
    paths = {int(path.stem[5:]): path for path in Path(workdir, "metrics").glob("seed_*.csv")}
    return {seed: _frame(paths[seed]) for seed in sorted(paths)}


def first_non_finite(rows: Sequence[Row]) -> tuple[int, str] | None:
    """Returns the row index and the name of the first value that is NaN or infinite, if any.

    Evaluation columns are passed over where no evaluation took place: all absent, None or NaN.
    """
    for index, row in enumerate(rows):
        evaluated = any(_is_number(row[name]) for name in row if name.startswith("eval/"))
        for name, value in row.items():
            skipped = name.startswith("eval/") and not evaluated
            if not skipped and not (_is_number(value) and math.isfinite(value)):
                return index, name
    return None


def _frame(path: Path) -> pd.DataFrame:
    # pandas' own parser may be off by one bit, depending on its version.
    header, *lines = csv.reader(io.StringIO(_complete_lines(path)))
    rows = [[float(cell) if cell else math.nan for cell in line] for line in lines]
    return pd.DataFrame(rows, columns=header, dtype=float).astype({"env_step": int})


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _csv_path(workdir: Path, seed: int) -> Path:
    return workdir / "metrics" / f"seed_{seed}.csv"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # The shortest text that gives back the same bits.
    return repr(value) if isinstance(value, int) else repr(float(value))


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _append(path: Path, line: str) -> None:
    with open(path, "a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _complete_lines(path: Path) -> str:
    """Returns the text of a file up to its last line end: a kill may leave half a line."""
    text = path.read_text()
    return text[: text.rfind("\n") + 1]


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_complete_lines(path))))


def _rewrite(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    lines = [_csv_line(row.get(name) or "" for name in columns) for row in rows]
    write_text_atomically(path, _csv_line(columns) + "".join(lines))


def _common_columns(paths: list[Path]) -> list[str]:
    """Returns the columns of existing files, brought to one list if a kill came in between."""
    headers = []
    for path in paths:
        text = _complete_lines(path) if path.exists() else ""
        headers.append(next(csv.reader([text.partition("\n")[0]]), []))
    columns = max(headers, key=len, default=[])
    for path, header in zip(paths, headers, strict=True):
        if header and header != columns:
            _rewrite(path, columns, _rows(path))
    return columns


class _TensorBoard:
    """One event folder per seed, opened at the first write."""

    def __init__(self, workdir: Path, seeds: list[int]) -> None:
        self._folders = [workdir / "tensorboard" / f"seed_{seed}" for seed in seeds]
        self._writers: list[SummaryWriter] = []
        self._purge_step: int | None = None

    def write(self, env_step: int, rows: list[Row]) -> None:
        if not self._writers:
            self._writers = [self._open(folder) for folder in self._folders]
        for writer, row in zip(self._writers, rows, strict=True):
            for name, value in row.items():
                if value is not None and name != "env_step":
                    writer.add_scalar(name, float(value), env_step)
            writer.flush()

    def truncate(self, env_step: int) -> None:
        self.close()
        self._purge_step = env_step + 1

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []

    def _open(self, folder: Path) -> "SummaryWriter":
        from tensorboardX import SummaryWriter

        # Event files are named to the second, and one of the same name would be overwritten.
        suffix = f".{uuid.uuid4().hex[:8]}"
        return SummaryWriter(str(folder), purge_step=self._purge_step, filename_suffix=suffix)


def _start_wandb(mode: str, project: str, workdir: Path, config: dict[str, Any]) -> Any:
    """Returns the Weights & Biases run that belongs to `workdir`, or None when it is off."""
    if mode not in WANDB_MODES:
        allowed = ", ".join(repr(known) for known in WANDB_MODES)
        raise UserError(f"config.logging.wandb is {mode!r}; it can be {allowed}.")
    if mode == "off":
        return None
    wandb = _import_wandb(mode)
    identity = workdir / "wandb_id.txt"
    with disk_problems_as_user_errors(workdir, "The Weights & Biases id"):
        workdir.mkdir(parents=True, exist_ok=True)
        if not identity.exists():
            write_text_atomically(identity, uuid.uuid4().hex)
    return wandb.init(
        project=project,
        mode=mode,
        config=config,
        dir=str(workdir),
        name=workdir.absolute().name,
        id=identity.read_text(),
        resume="allow",
    )


def _import_wandb(mode: str) -> types.ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"config.logging.wandb is {mode!r}, but the package wandb is not installed. "
            "Run `pip install wandb`, or pass --config.logging.wandb=off."
        ) from error
    return wandb
