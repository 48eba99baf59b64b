"""Checkpoints of a run: written beside, checked, and renamed as the last act.

A checkpoint is a folder `latest_<n>` or `best_<n>`, the highest number being the newest:

    arrays/      the pytree of arrays, in Orbax's format
    values/      everything else, as JSON and .npz
    files.json   size and CRC-32 of every file above; a folder that does not match it is not used
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from errors import UserError
from experiment import files, storage

PyTree = Any
T = TypeVar("T")
_FILES = "files.json"
_OVERHEAD = 1 << 20  # bytes besides the arrays: names, shapes, the driver's values; a round number
_LATEST, _BEST = "latest", "best"


class Checkpointer:
    """Saves and restores the state of a run in one folder.

    A kill at any moment leaves the previous checkpoint loadable. One process may write; others may
    read at the same time.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        """Touches nothing on disk.

        Args:
          folder: created by the first save, which removes what an interrupted process left there.
          keep: newest checkpoints that stay on disk, at least 1. With 2 or more, an unreadable
            newest one costs only the time since the one before.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._folder = Path(folder)
        self._keep = keep

    def save(self, step: int, state: PyTree, driver: dict[str, Any]) -> None:
        """Stores a checkpoint and then removes those beyond the newest `keep`.

        Args:
          step: environment step, returned by `restore`.
          state: pytree of JAX arrays, sharded or not, typed keys included, and NumPy arrays.
          driver: what `storage.save_dict` accepts.

        Raises:
          UserError: the disk is full or the folder is not writable; the previous checkpoint is
            then intact.
        """
        self._write(_LATEST, state, {"step": step, "driver": driver}, self._keep)

    def restore(self, example_state: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Returns step, state and driver of the newest readable checkpoint; None without any.

        Args:
          example_state: gives structure, shapes, dtypes and shardings (see `storage.restore_tree`).

        Raises:
          UserError: there are checkpoints, but none can be read or they do not fit the example.
        """
        found = self._read(_LATEST, example_state)
        return found and (found[1]["step"], found[0], found[1]["driver"])

    def save_best(self, policy_params: PyTree, info: dict[str, Any]) -> None:
        """Stores the best policy so far, replacing the one before; arguments as for `save`."""
        self._write(_BEST, policy_params, info, 1)

    def restore_best(self, example: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """Returns the policy and info of the last `save_best`; raises as `restore` does."""
        return self._read(_BEST, example)

    def _write(self, kind: str, tree: PyTree, values: dict[str, Any], keep: int) -> None:
        self._remove_abandoned()
        earlier = self._list(kind)
        number = _number(earlier[-1]) + 1 if earlier else 0
        temporary = self._folder / f"tmp_{os.getpid()}_{kind}_{number:06d}"
        size = storage.tree_bytes(tree) + _OVERHEAD

        def note() -> str:
            return f"The checkpoint takes {files.readable_bytes(size)}. {_fallback(earlier)}"

        with files.disk_problems_as_user_errors(self._folder, "A checkpoint", note):
            try:
                temporary.mkdir(parents=True)
                # Array storage that fails half-way keeps writing in the background for a moment.
                files.check_free_space(temporary, size)
                storage.save_tree(temporary / "arrays", tree)
                storage.save_dict(temporary / "values", values)
                contents = files.fingerprints(temporary)
                (temporary / _FILES).write_text(json.dumps(contents))
                files.rename_durably(temporary, self._folder / f"{kind}_{number:06d}")
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for folder in earlier[: max(0, len(earlier) + 1 - keep)]:
            self._remove(folder)

    def _read(self, kind: str, example: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        def load(folder: Path) -> tuple[PyTree, dict[str, Any]]:
            _check_contents(folder)
            tree = storage.restore_tree(folder / "arrays", example)
            return tree, storage.restore_dict(folder / "values")

        return self._newest_readable(kind, load)

    def _newest_readable(self, kind: str, load: Callable[[Path], T]) -> T | None:
        problems: list[str] = []
        tried: set[Path] = set()
        # The writing process may replace the list while we read, hence the second look at it.
        while untried := [folder for folder in self._list(kind) if folder not in tried]:
            folder = untried[-1]
            tried.add(folder)
            try:
                return load(folder)
            except UserError:
                raise
            except Exception as error:
                if folder.exists():
                    problems.append(f"{folder}: {str(error)[:300]}")
                    print(f"Warning: checkpoint cannot be read. {problems[-1]}", file=sys.stderr)
        if problems:
            listing = "\n  ".join(problems)
            raise UserError(
                f"No checkpoint in {self._folder} can be read:\n  {listing}\n"
                "Restore these files from a backup, or start again with another --workdir."
            )
        return None

    def _list(self, kind: str) -> list[Path]:
        """Returns the finished checkpoints of a kind, oldest first."""
        folders = self._folder.glob(f"{kind}_*")
        return sorted((f for f in folders if _suffix(f).isdigit()), key=_number)

    def _remove_abandoned(self) -> None:
        for folder in self._folder.glob("tmp_*"):
            shutil.rmtree(folder, ignore_errors=True)  # there is no other writer than this process

    def _remove(self, folder: Path) -> None:
        # Renamed first, so that a half-removed folder cannot be taken for a checkpoint.
        condemned = folder.with_name(f"tmp_{os.getpid()}_{folder.name}")
        try:
            os.rename(folder, condemned)
        except OSError:
            return
        shutil.rmtree(condemned, ignore_errors=True)


def _check_contents(folder: Path) -> None:
    expected = json.loads((folder / _FILES).read_text())
    actual = files.fingerprints(folder)
    actual.pop(_FILES, None)
    wrong = [n for n in sorted(expected | actual) if expected.get(n) != actual.get(n)]
    if wrong:
        raise ValueError(f"damaged or missing: {', '.join(wrong)}")


def _fallback(earlier: list[Path]) -> str:
    """Returns what is still there when a save fails, as a sentence."""
    for folder in reversed(earlier):
        try:
            step = storage.restore_dict(folder / "values").get("step")
        except (OSError, ValueError):
            continue
        of_step = "" if step is None else f" of step {step}"
        return f"The previous one{of_step} is intact: the same command resumes from it."
    return "There is no earlier one."


def _suffix(folder: Path) -> str:
    return folder.name.rpartition("_")[2]


def _number(folder: Path) -> int:
    return int(_suffix(folder))
