"""From a grid and a number of seeds to trials: command lines of train.py, all checked.

A trial is one point of the grid with one group of seeds, which train together in one process.
"""

import itertools
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from errors import UserError
from experiment import command_line, configuration
from experiment.run_folder import NO_RESULT

Grid = dict[str, list[str]]
"""Values by dotted field name, both in the order in which they were typed."""

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = REPOSITORY / "configs" / "default.py"
_SEED_FIELDS = {"seed": "--config.seed for the first one", "num_seeds": "--seeds-per-trial"}
_LONGEST_LABEL = 200  # bytes; file systems take 255, temporary files have a longer name


class Trial(NamedTuple):
    """One run of a sweep."""

    label: str  # the grid point, which is also the name of a folder
    seeds: range
    folder: Path
    total_steps: int  # environment steps per seed
    arguments: tuple[str, ...]  # of train.py

    @property
    def name(self) -> str:
        """What tells it from the other trials: the last two parts of its folder."""
        return f"{self.label}/{self.folder.name}"

    @property
    def command(self) -> str:
        """The command line as one types it."""
        program = "train.py" if Path.cwd() == REPOSITORY else str(REPOSITORY / "train.py")
        return shlex.join(["python", program, *self.arguments])


def parse_grid(text: str) -> Grid:
    """Reads a grid such as `config.algo=mbpo,sac;config.model.hidden_width=64,200`.

    The prefix `config.` may be left out. Commas and semicolons inside of brackets or quotes belong
    to a value.

    Raises:
      UserError: the text is not such a list, a field is given twice, or a field cannot vary.
    """
    grid: Grid = {}
    for part in filter(str.strip, _split(text, ";")):
        field, equals, values = part.partition("=")
        field = field.strip().removeprefix("--").removeprefix("config.")
        if not field or not equals:
            raise UserError(
                f"--grid: {part.strip()!r} is not field=value,value,...: write for example "
                '--grid "config.algo=mbpo,sac;config.model.hidden_width=64,200".'
            )
        if field in grid:
            raise UserError(f"--grid: {field} is given twice: list all its values in one place.")
        if field in _SEED_FIELDS:
            raise UserError(
                f"--grid: {field} cannot vary: pass --seeds, and {_SEED_FIELDS[field]}."
            )
        if field.startswith(NO_RESULT):
            raise UserError(
                f"--grid: {field} does not change what a run computes, so its values would train "
                f"the same thing again: pass --config.{field}=VALUE for all trials."
            )
        grid[field] = [_unquoted(value.strip()) for value in _split(values, ",")]
        if not all(grid[field]):
            raise UserError(f"--grid: {field} has an empty value: remove the extra comma.")
    return grid


def read_base(arguments: Sequence[str]) -> ConfigDict:
    """Returns the configuration that all trials share, before anything is filled in.

    Args:
      arguments: `--config` and its overrides.

    Raises:
      UserError: an argument is unknown, or sets what the sweep decides.
      flags.Error: a value has the wrong type.
    """
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if name == "config.num_seeds":
            raise UserError(
                f"{argument}: pass --seeds for the number of seeds, and --seeds-per-trial for how "
                "many of them train together."
            )
        if name == "workdir":
            raise UserError(f"{argument}: a sweep names the run folders itself, below --out.")
    return command_line.read_config(arguments, DEFAULT_CONFIG)


def plan(
    arguments: Sequence[str], grid: Grid, num_seeds: int, seeds_per_trial: int, out: Path
) -> list[Trial]:
    """Returns the trials of a sweep, all of them checked.

    Args:
      arguments: `--config` and the overrides that all trials share.
      grid: what differs between them; empty: only the seed does.
      num_seeds: seeds per grid point, `config.seed` and the following.
      seeds_per_trial: how many of them train together; the last trial of a point may have fewer.
      out: the folder of the sweep.

    Raises:
      UserError: a value is refused. The message lists the problems of all points of the grid.
      flags.Error: a value in `arguments` has the wrong type.
    """
    base = read_base(arguments)
    seeds = range(base.seed, base.seed + num_seeds)
    groups = [seeds[k : k + seeds_per_trial] for k in range(0, num_seeds, seeds_per_trial)]
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    labels = [_label(point) or base.algo for point in points]
    _check_labels(labels)
    trials, problems, found = [], dict[str, list[str]](), dict[str, str]()
    for label, point in zip(labels, points):
        shared = [*arguments, *(f"--config.{field}={value}" for field, value in point.items())]
        try:  # the last group has the largest seeds
            config = _checked([*shared, *_seed_flags(groups[-1])])
            same = found.setdefault(config.to_json(sort_keys=True), label)
            if same != label:
                raise UserError(f"the same configuration as {same}: remove one of the two.")
        except (UserError, flags.Error) as error:
            problems.setdefault(str(error), []).append(label)
            continue
        for group in groups:
            folder = out / label / f"seed_{group[0]}"
            own = [*_seed_flags(group), f"--workdir={folder}"]
            trials.append(Trial(label, group, folder, config.total_steps, (*shared, *own)))
    if problems:
        raise UserError(_list(problems, len(points)))
    return trials


def _seed_flags(seeds: range) -> list[str]:
    return [f"--config.seed={seeds[0]}", f"--config.num_seeds={len(seeds)}"]


def _checked(arguments: Sequence[str]) -> ConfigDict:
    config = configuration.resolve(command_line.read_config(arguments, DEFAULT_CONFIG))
    configuration.validate(config)
    return config


def _list(problems: dict[str, list[str]], num_points: int) -> str:
    """Returns one message; a problem that several points share is told once."""
    if len(problems) == 1 and len(*problems.values()) == num_points:
        return next(iter(problems))
    lines = [f"{sum(map(len, problems.values()))} of {num_points} points of the grid are refused:"]
    for message, labels in problems.items():
        lines += [", ".join(labels) + ":", textwrap.indent(message, "  ")]
    return "\n".join(lines)


def _label(point: dict[str, str]) -> str:
    """Returns the point as a name of a folder that needs no quotes in a shell."""
    safe = {field: re.sub(r"[^\w.+-]+", "_", value).strip("_") for field, value in point.items()}
    return ",".join(f"{field}={value}" for field, value in safe.items())


def _check_labels(labels: Sequence[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--grid: two points are named {label}: remove one of the values.")
        if len(label.encode()) > _LONGEST_LABEL:
            raise UserError(
                f"--grid: {label} is too long for the name of a folder: pass what does not vary "
                "as --config.field=value, and put combinations into a configuration file."
            )


def _split(text: str, separator: str) -> list[str]:
    """Splits at the separators that are outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if character == separator and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    if depth or quote:
        raise UserError(f"--grid: a bracket or quote in {text.strip()!r} is not closed.")
    return parts


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text
