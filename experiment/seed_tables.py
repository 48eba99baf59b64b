"""Tables of scalars as CSV files, one per seed, that survive a kill at any moment.

Reading gives back the bits that were written. Every row has the environment step it belongs to, to
which a resumed run cuts the files back; half a row, which a kill may leave, is not read.
"""

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiment.files import write_text_atomically

STEP = "env_step"  # the column that every table has
Row = dict[str, float]


class SeedTables:
    """One family of CSV files in a run's `metrics` folder, `<prefix>_<seed>.csv`.

    All seeds have the same columns. Methods raise OSError if the disk is full or not writable.
    """

    def __init__(
        self, workdir: Path, prefix: str, seeds: list[int], first_columns: Sequence[str]
    ) -> None:
        """Continues the files in `workdir` if there are any; call `truncate` when resuming.

        Args:
          workdir: run folder, with a folder `metrics`.
          prefix: what the file names start with.
          seeds: the seed of each table, in the order of the arguments of `append`.
          first_columns: columns that every file has, in this order, before the others by name; the
            first is `env_step`.
        """
        self._files = [_path(workdir, prefix, seed) for seed in seeds]
        self._first_columns = first_columns
        self._columns = _common_columns(self._files)

    def append(self, tables: Sequence[Sequence[Row]]) -> None:
        """Appends rows to each seed's table; they are on disk when this returns.

        Args:
          tables: rows by seed, `env_step` included. A name that earlier rows lack adds a column,
            one that is missing now leaves an empty cell.
        """
        self._ensure_columns(set().union(*(row for rows in tables for row in rows)))
        for path, rows in zip(self._files, tables, strict=True):
            lines = [_csv_line(_cell(row.get(name)) for name in self._columns) for row in rows]
            _append(path, "".join(lines))

    def truncate(self, env_step: int) -> None:
        """Forgets all rows after `env_step` (-1: all rows), and a row cut short by a kill."""
        for path in self._files:
            if path.exists():
                kept = [row for row in _rows(path) if int(row["env_step"]) <= env_step]
                _rewrite(path, self._columns, kept)

    def _ensure_columns(self, names: set[str]) -> None:
        if self._columns and names <= set(self._columns):
            missing = [path for path in self._files if not path.exists()]
        else:
            names |= {*self._first_columns, *self._columns}
            self._columns = [*self._first_columns, *sorted(names.difference(self._first_columns))]
            missing = self._files
        for path in missing:
            _rewrite(path, self._columns, _rows(path) if path.exists() else [])


def read(workdir: Path, prefix: str) -> dict[int, pd.DataFrame]:
    """Returns one family of tables of a run folder, bit-identical to what was written.

    Returns:
      By seed in increasing order; an empty cell is NaN.
    """
    return {seed: read_table(path) for seed, path in _existing(workdir, prefix).items()}


def last_rows(workdir: Path, prefix: str) -> list[Row]:
    """Returns the last row of every table of a family that has one, without its empty cells."""
    tables = [_rows(path) for path in _existing(workdir, prefix).values()]
    return [
        {name: float(cell) for name, cell in rows[-1].items() if cell} for rows in tables if rows
    ]


def _existing(workdir: Path, prefix: str) -> dict[int, Path]:
    """Returns the files of a family by seed in increasing order."""
    files = Path(workdir, "metrics").glob(f"{prefix}_*.csv")
    by_seed = {int(path.stem.removeprefix(f"{prefix}_")): path for path in files}
    return dict(sorted(by_seed.items()))


def _path(workdir: Path, prefix: str, seed: int) -> Path:
    return workdir / "metrics" / f"{prefix}_{seed}.csv"


def read_table(path: Path) -> pd.DataFrame:
    """Returns one table, bit-identical to what was written; an empty cell is NaN.

    Raises:
      ValueError: the file is damaged; the message says where.
    """
    # pandas' own parser may be off by one bit, depending on its version.
    header, *lines = [*csv.reader(io.StringIO(_complete_lines(path)))] or [[]]
    if STEP not in header:
        raise ValueError(f"its first line has no column {STEP}")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"line {number} has {len(line)} values for {len(header)} columns")
        try:
            rows.append([float(cell) if cell else math.nan for cell in line])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    frame = pd.DataFrame(rows, columns=header, dtype=float)
    if (frame[STEP] < 0).any():
        raise ValueError(f"a value of {STEP} is negative")
    if not (frame[STEP].diff().dropna() > 0).all():
        raise ValueError(f"the values of {STEP} do not increase")
    return frame.astype({STEP: int})


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # The shortest text that gives back the same bits.
    return repr(value) if isinstance(value, int) else repr(float(value))


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _append(path: Path, lines: str) -> None:
    with open(path, "a") as file:
        file.write(lines)
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
