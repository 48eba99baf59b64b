"""Reads run folders, whatever state they are in; what is wrong with one is a line, not an error."""

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.wording import counted
from configs import default
from errors import UserError
from experiment.metrics import EPOCHS
from experiment.run_folder import CONFIG_FILE, LOCK_FILE, another_version, flatten, read_config
from experiment.seed_tables import STEP, read_table
from experiment.sweep_folder import SWEEP_FILE
from experiment.sweep_trial import ATTEMPTS_FILE, LOG_FILE

RETURN, CLOCK = "eval/return", "wall_clock"
# Values that are computed with: one that is odd must not end the report on all other runs.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("algo", "env"), str),
    **dict.fromkeys(("seed", "num_seeds"), int),
    **dict.fromkeys(("total_steps", "replay_capacity"), int | None),
    **dict.fromkeys(("git", "versions", "hardware"), dict | None),
}
_KERNEL_LOCKS = Path("/proc/locks")
_SHOWN = 5  # names listed in one line, the rest is counted


class Run(NamedTuple):
    """One run folder, as far as it can be used."""

    folder: Path
    config: dict[str, Any]  # by dotted name; fields younger than the run have their default
    environment: dict[str, Any]  # versions, commit and hardware, as in config.json
    seeds: dict[int, pd.DataFrame]  # one row per epoch; only seeds with at least one evaluation

    @property
    def step(self) -> int:
        """Environment steps per seed so far."""
        return max(int(frame[STEP].iloc[-1]) for frame in self.seeds.values())

    @property
    def name(self) -> str:
        """What it is, as a title: `mbpo on Hopper-v5`."""
        return f"{self.config['algo']} on {self.config['env']}"


def load(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Loads run folders.

    Args:
      paths: run folders, or folders below which they are searched.

    Returns:
      The runs that have at least one evaluation, each once, and a line for every problem.

    Raises:
      UserError: there is no such run; the message has all the lines.
    """
    runs, notes, seen = [], [], set()
    for path in paths:
        folders = [*_sweeps(path), *find(path)]
        if not folders:
            notes.append(f"{path}: no run folder is here or below (none has a {CONFIG_FILE}).")
        for folder in folders:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                run, problems = _load(folder)
                runs += [run] if run else []
                notes += [f"{folder}: {problem}" for problem in problems]
    if not runs:
        raise UserError("there is no run to report on:" + "".join(f"\n  {n}" for n in notes))
    return runs, notes


def find(path: Path) -> Iterator[Path]:
    """Yields the run folders at or below a path, by name; nothing inside a run folder is one.

    Trials of a sweep that have been started but have not written a `config.json` are among them.
    """
    for folder, names in _walk(path):
        if _is_run(names) or _is_trial(folder, names):
            yield folder


def _sweeps(path: Path) -> list[Path]:
    """Returns the folders of sweeps at or below a path."""
    return [folder for folder, names in _walk(path) if SWEEP_FILE in names]


def _walk(path: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yields folders, by name, with what is in them, except for those inside of run folders."""
    for folder, below, files in os.walk(path):
        names = {*below, *files}
        if _is_run(names):
            below.clear()
        below.sort()
        yield Path(folder), names


def _is_run(names: set[str]) -> bool:
    return CONFIG_FILE in names or "metrics" in names


def _is_trial(folder: Path, names: set[str]) -> bool:
    """Whether a folder is `<sweep>/<point of the grid>/<seeds>` and has been started."""
    started = not names.isdisjoint((ATTEMPTS_FILE, LOG_FILE))
    return started and Path(*folder.absolute().parts[:-2], SWEEP_FILE).exists()


def _load(folder: Path) -> tuple[Run | None, list[str]]:
    """Returns a run, if it can be used, and what is to be said about its folder."""
    file, reader = CONFIG_FILE, _read
    if (folder / SWEEP_FILE).exists():
        file, reader = SWEEP_FILE, _read_sweep
    try:
        return reader(folder)
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return None, [f"{file} cannot be used ({error}); left out."]


def _read_sweep(folder: Path) -> tuple[None, list[str]]:
    """Says how many trials have no folder yet."""
    trials = json.loads((folder / SWEEP_FILE).read_text())["trials"]
    waiting = sum(not (folder / name).exists() for name in trials)
    text = f"{waiting:,} of its {counted(len(trials), 'trial')} not started yet."
    return None, [text] if waiting else []


def _read(folder: Path) -> tuple[Run | None, list[str]]:
    try:
        content = read_config(folder)
    except UserError as error:
        if error.__cause__ is None or isinstance(error.__cause__, FileNotFoundError):
            return None, [_without_config(folder)]
        return None, [f"{CONFIG_FILE} is damaged ({error.__cause__}); left out."]
    config, environment = flatten(content["config"]), dict(content["environment"])
    if not {"algo", "env"} <= config.keys():
        return None, [f"{CONFIG_FILE} names no algo and env; left out."]
    for name, value in (config | environment).items():
        if not isinstance(value, _TYPES.get(name, object)):
            return None, [f"{CONFIG_FILE} cannot be used ({name} is {value!r}); left out."]
    seeds, problems = _read_seeds(folder, config)
    written = f"written by {another_version(environment)}"
    known = flatten(default.get_config().to_dict()).keys()
    if unknown := sorted(config.keys() - known):
        problems.append(f"{written}: this one does not know {listed(unknown)}.")
    if seeds and not any(RETURN in frame for frame in seeds.values()):
        problems.append(f"{written}: no column {RETURN}; left out.")
        return None, problems
    evaluated = {
        seed: frame
        for seed, frame in seeds.items()
        if RETURN in frame and np.isfinite(frame[RETURN]).any()
    }
    run = Run(folder, {**_younger(config, known), **config}, environment, evaluated)
    if not evaluated:
        writer = _writer(folder)
        note = f"no evaluation yet (process {writer} is at it)" if writer else "no evaluation yet"
        return None, [*problems, f"{note}; left out."]
    return run, [*problems, *_state(run)]


def _younger(config: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Returns the fields that did not exist when a run was configured, with their defaults."""
    missing = [name for name in known if name not in config]
    if not missing:
        return {}
    from experiment import configuration  # here, because it may import JAX

    stored = {name: value for name, value in config.items() if name in known}
    complete = flatten(configuration.complete(stored).to_dict())
    return {name: complete[name] for name in missing}


def _without_config(folder: Path) -> str:
    if _is_trial(folder, {path.name for path in folder.iterdir()}):
        return f"this trial has not got as far as its {CONFIG_FILE}, see {LOG_FILE}; left out."
    return f"no {CONFIG_FILE}, so what was run here is unknown; left out."


def _read_seeds(folder: Path, config: dict[str, Any]) -> tuple[dict[int, pd.DataFrame], list[str]]:
    seeds, problems = {}, []
    for path in sorted(folder.glob(f"metrics/{EPOCHS}_*.csv")):
        try:
            table = read_table(path)
            if CLOCK not in table:
                table[CLOCK] = np.nan
            seeds[int(path.stem.removeprefix(f"{EPOCHS}_"))] = table
        except (OSError, ValueError, csv.Error) as error:
            problems.append(f"metrics/{path.name} is damaged ({error}); this seed is left out.")
    first, count = config.get("seed", 0), config.get("num_seeds", 1)
    found = len(seeds) + len(problems)
    if 0 < found < count:
        expected = {f"{EPOCHS}_{seed}.csv" for seed in range(first, first + count)}
        missing = sorted(expected - {path.name for path in folder.glob("metrics/*.csv")})
        problems.append(f"metrics/ lacks {listed(missing)} of {count} seeds.")
    return dict(sorted(seeds.items())), problems


def _state(run: Run) -> list[str]:
    total = run.config["total_steps"]
    at = f"at step {run.step:,}" + (f" of {total:,}" if total else "")
    if writer := _writer(run.folder):
        return [f"still being written (process {writer}), {at}."]
    if total and run.step < total:
        return [
            f"stopped {at}: repeat its command with `--workdir={run.folder}` to resume. "
            "(No process of this machine is at it.)"
        ]
    return []


def _writer(folder: Path) -> int | None:
    """Returns the process that holds the lock of a run folder; the lock itself is not touched."""
    try:
        status = (folder / LOCK_FILE).stat()
        locks = _KERNEL_LOCKS.read_text()
    except OSError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in locks.splitlines():
        fields = line.split()
        if device in fields and "FLOCK" in fields and "->" not in fields:  # "->" waits for it
            return int(fields[fields.index(device) - 1])
    return None


def listed(names: list[str]) -> str:
    """Returns names for a single line: the first few and how many there are besides."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
