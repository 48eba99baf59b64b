"""The scalars of a run: CSV files, TensorBoard and Weights & Biases.

The CSV files are the record; everything drawn or written about a run is computed from them alone.
`metrics/seed_<k>.csv` has a row per epoch, which TensorBoard and Weights & Biases show too, and
`metrics/refresh_seed_<k>.csv` one per refresh of the model.
"""

import math
import time
import types
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from errors import UserError
from experiment import seed_tables
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.seed_tables import Row, SeedTables

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

EPOCHS, REFRESHES = "seed", "refresh_seed"  # what the names of the two kinds of file start with
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
        self._seeds = seeds
        self._boards = _TensorBoard(self._workdir, seeds) if tensorboard else None
        self._wandb = _start_wandb(wandb, wandb_project, self._workdir, config)
        with self._disk_problems():
            (self._workdir / "metrics").mkdir(parents=True, exist_ok=True)
            self._epochs = SeedTables(self._workdir, EPOCHS, seeds, FIRST_COLUMNS)
            self._refreshes = SeedTables(self._workdir, REFRESHES, seeds, ["env_step"])

    def write(self, env_step: int, rows: Sequence[Row]) -> None:
        """Appends the row of an epoch, one per seed.

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
            self._epochs.append([[row] for row in rows])
            if self._boards is not None:
                self._boards.write(env_step, rows)
        if self._wandb is not None:
            named = zip(self._seeds, rows, strict=True)
            flat = {f"seed_{k}/{n}": v for k, row in named for n, v in row.items() if v is not None}
            self._wandb.log(flat, step=env_step)

    def write_refreshes(self, tables: Sequence[Sequence[Row]]) -> None:
        """Appends the rows of the refreshes of an epoch, if there were any.

        Args:
          tables: by seed, one dictionary per refresh with its `env_step`.

        Raises:
          UserError: the disk is full or not writable.
        """
        if any(tables):
            with self._disk_problems():
                self._refreshes.append(tables)

    def truncate(self, env_step: int) -> None:
        """Forgets all rows after `env_step` (-1: all rows), and a row cut short by a kill.

        TensorBoard is told to hide its points after `env_step`.

        Raises:
          UserError: the disk is full or not writable.
        """
        with self._disk_problems():
            self._epochs.truncate(env_step)
            self._refreshes.truncate(env_step)
        if self._boards is not None:
            self._boards.truncate(env_step)

    def close(self) -> None:
        """Finishes TensorBoard and Weights & Biases; the writer cannot be used afterwards."""
        if self._boards is not None:
            self._boards.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _disk_problems(self) -> Any:
        return disk_problems_as_user_errors(self._workdir, "The metrics")


def read(workdir: Path) -> dict[int, pd.DataFrame]:
    """Returns the metrics of every seed in a run folder, bit-identical to what was written.

    Returns:
      By seed in increasing order, a frame with one row per epoch; an empty cell is NaN.
    """
    return seed_tables.read(workdir, EPOCHS)


def read_refreshes(workdir: Path) -> dict[int, pd.DataFrame]:
    """Returns the metrics of every refresh, bit-identical to what was written.

    Returns:
      By seed in increasing order, a frame with one row per refresh; an empty cell is NaN. Nothing
      for an algorithm without a model.
    """
    return seed_tables.read(workdir, REFRESHES)


def diverged(workdir: Path) -> bool:
    """Whether the last epoch of any seed has a value that is not finite, which ends a run."""
    return first_non_finite(seed_tables.last_rows(workdir, EPOCHS)) is not None


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


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


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

        # Event files are named to the second. One of the same name would be overwritten, and
        # TensorBoard reads a folder in order of names, so what a resume writes must sort last.
        suffix = f".{time.time_ns()}"
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
