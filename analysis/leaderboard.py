"""The page of results: every algorithm on every environment, from the metrics of finished runs."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.recipes import RECIPES
from analysis import grouping, published, published_curves, runs
from analysis.curves import Curves, common, final_returns
from analysis.rendering import markdown_table
from analysis.run_report import FINAL_EVALUATIONS
from analysis.runs import CLOCK, Run
from analysis.statistics import FEWEST_FOR_INTERVAL, t_interval
from analysis.wording import UNKNOWN, counted, hardware, number, time_taken
from configs import default
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.run_folder import REPORT_FILE, flatten

# Where MBPO and its successors are compared; a row without them would hide what was not run.
ENVIRONMENTS = (
    "Hopper-v5",
    "HalfCheetah-v5",
    "Walker2d-v5",
    "AntTruncated-v5",
    "HumanoidTruncated-v5",
)
# Fields that make a variant of an algorithm, with a row of its own.
_VARIANTS = ("use_algo", "model.objective", "rollout.filter")


class Entry(NamedTuple):
    """One experiment on the page: a run, or runs of the same settings in one folder."""

    folder: Path  # of the run, or of the runs
    runs: list[Run]
    curves: Curves
    row: str  # algorithm, and variant if it is one
    changed: dict[str, Any]  # settings that are not those of the preset, by dotted name

    @property
    def place(self) -> tuple[str, str]:
        """Row and column of the matrix."""
        return self.row, self.env

    @property
    def env(self) -> str:
        """The environment."""
        return self.runs[0].config["env"]


def write(paths: Sequence[Path], file: Path) -> None:
    """Writes the page on all runs at or below `paths`, with links relative to `file`.

    Raises:
      UserError: there is no run with an evaluation, or the disk is full or not writable.
    """
    text = page(paths, file)
    with disk_problems_as_user_errors(file.parent, "The leaderboard"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(file, text)


def page(paths: Sequence[Path], file: Path) -> str:
    """Returns the page as Markdown.

    Args:
      paths: run folders, or folders below which they are searched.
      file: where the page will be; its links are relative to that.

    Raises:
      UserError: there is no run with an evaluation.
    """
    root = file.parent
    found, notes = runs.load(paths)
    together: dict[Path, list[Run]] = {}
    for run in found:
        together.setdefault(run.folder.parent, []).append(run)
    entries = [entry for siblings in together.values() for entry in _entries(siblings)]
    command = shlex.join(map(str, ["python", "report.py", *paths, "--leaderboard", file]))
    values, curves = (
        f"[{path.name}]({os.path.relpath(path, root)})"
        for path in (published.FILE, published_curves.FILE)
    )
    sections = [
        "# Results",
        f"Written by `{command}` from the CSV files below; not to be edited. Published values and "
        f"learning curves to compare with are in {values} and {curves}.",
        _matrix(entries, root),
        "## Runs",
        "Each folder is a run as `train.py` left it, or runs that differ only in their seeds, "
        "without checkpoints and TensorBoard files; reports have the commands. Changed settings "
        "are those that differ from the preset of the algorithm on that environment, apart from "
        "seeds, steps and evaluation.",
        _runs(entries, root),
        _studies(paths, root),
        "## Notes\n\n" + "\n".join(f"- {note}" for note in notes) if notes else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _entries(siblings: list[Run]) -> list[Entry]:
    """Returns the experiments among the runs of one folder; seeds trained apart are one."""
    entries = []
    for group in grouping.group(siblings)[0]:
        found = {member.run.folder: member.run for member in group.members}
        alone = len(found) == 1
        folder = next(iter(found)) if alone else siblings[0].folder.parent
        row, changed = _changes(group.members[0].run.config)
        entries += [
            Entry(folder, list(found.values()), curves, row, changed) for curves in common(group)[0]
        ]
    return entries


def _changes(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the row of a configuration and the settings that its row does not imply."""
    chosen = {"algo": config["algo"], "preset": config["preset"]}
    preset = _preset(config["env"], chosen)
    variant = []
    for name in _VARIANTS:
        value = config[name]
        if value is not None and value != preset[name]:
            variant.append(f"{name}={value}")
            chosen[name] = value
            preset = _preset(config["env"], chosen)
    expected, given = grouping.settings(preset), grouping.settings(config)
    # A run that is older than a field has no value of it that could be a change.
    changed = {
        name: json.loads(value)
        for name, value in given.items()
        if value not in ("null", expected.get(name))
    }
    return ", ".join([config["algo"], *variant]), changed


def _preset(env: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the resolved configuration, by dotted name, of someone who sets only these fields."""
    from experiment import configuration  # here, because it may import JAX

    config = default.get_config(env)
    config.update_from_flattened_dict(fields)
    return flatten(configuration.resolve(config).to_dict())


def _matrix(entries: list[Entry], root: Path) -> str:
    """Returns algorithms against environments, with footnotes."""
    order = {name: index for index, name in enumerate(RECIPES)}  # others, of other versions, last
    rows = sorted(
        {*RECIPES, *(entry.row for entry in entries)},
        key=lambda row: (order.get(row.split(",")[0], len(order)), row),
    )
    envs = list(dict.fromkeys([*ENVIRONMENTS, *sorted(e.env for e in entries)]))
    footnotes: list[str] = []
    table = [
        [
            row,
            *(
                _cell([e for e in entries if e.place == (row, env)], root, footnotes)
                for env in envs
            ),
        ]
        for row in rows
    ]
    text = (
        f"Final return: the mean of the last {FINAL_EVALUATIONS} evaluations, over seeds with the "
        "half-width of its 95 % Student-t interval, or the range of two seeds. "
        f"{UNKNOWN} has not been run."
    )
    return "\n\n".join(
        filter(None, [text, markdown_table(["", *envs], table), "\n".join(footnotes)])
    )


def _cell(candidates: list[Entry], root: Path, footnotes: list[str]) -> str:
    """Returns the outcome of the run closest to the preset; adds a footnote if it is not there."""
    if not candidates:
        return UNKNOWN
    best = min(
        candidates, key=lambda e: (len(e.changed), -len(e.curves.returns), -e.curves.steps[-1])
    )
    link = f"[{_outcome(best.curves)}]({_target(best.folder, root)})"
    if not best.changed:
        return link
    index = len(footnotes) + 1
    footnotes.append(
        f"{index}. {os.path.relpath(best.folder, root)} changes "
        f"{counted(len(best.changed), 'setting')} of the preset, listed below."
    )
    return f"{link} <sup>{index}</sup>"


def _runs(entries: list[Entry], root: Path) -> str:
    header = ["folder", "what", "final return", "best evaluation", "time", "hardware", "changed"]
    rows = []
    for entry in sorted(entries, key=lambda e: str(e.folder)):
        clock = sum(max(f[CLOCK].max() for f in run.seeds.values()) for run in entry.runs)
        changed = [f"`{name}={_shown(value)}`" for name, value in entry.changed.items()]
        rows.append(
            [
                f"[{os.path.relpath(entry.folder, root)}]({_target(entry.folder, root)})",
                f"{entry.row} on {entry.env}",
                _outcome(entry.curves),
                number(entry.curves.returns.max()),
                time_taken(clock),
                hardware(entry.runs[0].environment.get("hardware") or {}),
                ", ".join(changed) or "nothing",
            ]
        )
    return markdown_table(header, rows)


def _studies(paths: Sequence[Path], root: Path) -> str:
    """Links the folders directly below that are no runs, with the title of their README."""
    lines = []
    for path in paths:
        run_folders = set(runs.find(path))
        for folder in sorted(child for child in path.glob("*") if child.is_dir()):
            if folder in run_folders or path in run_folders:
                continue
            name = os.path.relpath(folder, root)
            readme = folder / "README.md"
            if readme.exists():
                title = readme.read_text().partition("\n")[0].lstrip("# ")
                lines.append(f"- [{name}]({name}/README.md)" + f": {title}" * bool(title))
            else:
                lines.append(f"- [{name}]({name})")
    return "## Studies\n\n" + "\n".join(lines) if lines else ""


def _outcome(curves: Curves) -> str:
    """Returns e.g. `434 ± 329 (5 seeds, 5,000 steps)`."""
    scores = final_returns(curves)
    if len(scores) >= FEWEST_FOR_INTERVAL:
        value = f"{number(scores.mean())} ± {number(float(t_interval(scores)))}"
    elif np.ptp(scores) > 0:
        value = f"{number(scores.min())} to {number(scores.max())}"
    else:
        value = number(scores[0])
    return f"{value} ({counted(len(scores), 'seed')}, {curves.steps[-1]:,} steps)"


def _target(folder: Path, root: Path) -> str:
    report = folder / REPORT_FILE
    return os.path.relpath(report if report.exists() else folder, root)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
