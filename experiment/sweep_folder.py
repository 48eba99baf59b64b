"""The folder of a sweep: `sweep.json` says what it runs, and only that can be continued in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from errors import UserError
from experiment import run_folder
from experiment.files import write_text_atomically
from experiment.sweep_plan import Grid, Trial

SWEEP_FILE = "sweep.json"
_HARMLESS = (*run_folder.NO_RESULT, "num_seeds")  # what trials set themselves or may change


def open_sweep(
    out: Path, command: str, base: ConfigDict, grid: Grid, trials: Sequence[Trial]
) -> None:
    """Creates the folder of a sweep, or checks that the sweep in it is part of this one.

    Args:
      out: the folder.
      command: what the user typed.
      base: the configuration that all trials share, as the user gave it.
      grid: what differs between them.
      trials: all trials, finished ones included.

    Raises:
      UserError: a trial has been started in the folder that has other values or is not among
        `trials`, or the folder is not writable.
    """
    content = {
        "command": command,
        "config": json.loads(json.dumps(run_folder.flatten(base.to_dict()))),
        "grid": grid,
        "trials": {t.name: {"seeds": list(t.seeds), "command": t.command} for t in trials},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / SWEEP_FILE).exists():
            _check_continues(out, read(out), content)
        write_text_atomically(out / SWEEP_FILE, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"--out={out}: the sweep cannot be written there ({error.strerror}). Free some space, "
            "change its permissions, or pass another --out."
        ) from error


def read(out: Path) -> dict[str, Any]:
    """Returns what a sweep runs, as `sweep.json` in its folder says.

    Returns:
      `{"command": str, "config": {field: value}, "trials": {name: {"seeds": [...], "command":
      str}}}`. The run folder of a trial is `out / name`. It exists once the trial has started, and
      has a `config.json` once train.py has got as far as that.

    Raises:
      UserError: the file is damaged.
      OSError: there is none, or it is not readable.
    """
    try:
        content = json.loads((out / SWEEP_FILE).read_text())
        command, config, trials = (content[name] for name in ("command", "config", "trials"))
        trials = {
            name: {"seeds": t["seeds"], "command": t["command"]} for name, t in trials.items()
        }
        return {"command": command, "config": dict(config), "trials": trials}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{out / SWEEP_FILE} is damaged ({error}). Remove it: sweep.py writes it anew when its "
            "command is repeated."
        ) from error


def _check_continues(out: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    started = {name: t for name, t in stored["trials"].items() if (out / name).exists()}
    if not started:
        return
    old, new = stored["config"], given["config"]
    names = [name for name in sorted(old | new) if not name.startswith(_HARMLESS)]
    differences = [
        f"--config.{name}: in {out} {_show(old, name)}, given {_show(new, name)}"
        for name in names
        if _show(old, name) != _show(new, name)
    ]
    missing = [
        f"{name}: seeds {', '.join(map(str, trial['seeds']))}"
        for name, trial in started.items()
        if given["trials"].get(name, {}).get("seeds") != trial["seeds"]
    ]
    if missing:
        differences += ["trials that were started, but are not part of this command:", *missing]
    if differences:
        raise UserError(
            f"{out} holds another sweep:\n"
            + "".join(f"  {line}\n" for line in differences)
            + f"It was started with\n  {stored['command']}\n"
            "Repeat that to continue it; --grid may have more values, and --seeds may be larger "
            "by multiples of --seeds-per-trial. Or pass another --out."
        )


def _show(config: dict[str, Any], name: str) -> str:
    return json.dumps(config[name]) if name in config else "(absent)"
