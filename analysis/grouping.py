"""Which runs are the same experiment with other seeds, and what to call it.

Runs belong together when they have the same settings. A group is named after the fewest fields that
tell it from the others, so a comparison of two algorithms, which differ in dozens of fields, reads
"mbpo" and "sac", and a sweep of one algorithm reads "model.hidden_width=64".
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from agents.recipes import RECIPES
from analysis.runs import RETURN, STEP, Run, listed
from errors import UserError
from experiment.fields import uses
from experiment.run_folder import NO_RESULT

# Fields that never make another experiment: which seeds and how many of them share a run, where
# evaluations happen and over how many episodes, what is diagnosed, and how long it goes on.
# Environments are panels.
_NOT_SETTINGS = {
    "env",
    "seed",
    "num_seeds",
    "total_steps",
    "epoch_length",
    "eval_episodes",
    "eval_untrained",
    "omd.diagnose_every",
}
_PRIORITY = ("algo", "use_algo", "model.objective", "rollout.filter", "preset")

Settings = dict[str, str]  # by dotted name, as JSON; "null" means "does not apply"
_UNUSED = "null"
_QUOTES = '"'


class Member(NamedTuple):
    """One seed of one run."""

    run: Run
    seed: int
    returns: pd.Series  # by environment step
    settings: Settings

    @property
    def step(self) -> int:
        """Environment steps of the last evaluation."""
        return int(self.returns.index[-1])


class Group(NamedTuple):
    """The seeds of one experiment on one environment."""

    env: str
    label: str
    members: list[Member]


def group(runs: Iterable[Run], by: Sequence[str] = ()) -> tuple[list[Group], list[str]]:
    """Groups the seeds of all runs.

    Args:
      runs: what to group, with at least one evaluation each.
      by: fields to group by; those in which runs differ when empty.

    Returns:
      Groups by environment and label, and a line for all that was pooled or counted once.

    Raises:
      UserError: `by` names a field that runs cannot be grouped by.
    """
    members, notes = _without_duplicates([member for run in runs for member in _members(run)])
    differing = _differing(members)
    if by:
        _check(by, members)
        pooled = [name for name in differing if name not in by]
        if pooled:
            notes.append(
                f"Grouped by {', '.join(by)}, so runs that differ in {', '.join(pooled)} are "
                "pooled: each of their seeds counts as a sample of the group."
            )
    fewest = _fewest(members, differing)
    if not by:
        notes += _hidden(members, fewest)
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        algo = member.settings["algo"]
        names = by or [
            *_varying(["algo"], members),
            *_varying(fewest, [m for m in members if m.settings["algo"] == algo]),
        ]
        nothing = f"without {', '.join(by)}" if by else json.loads(member.settings["algo"])
        label = _label(member.settings, list(dict.fromkeys(names))) or nothing
        groups.setdefault((member.run.config["env"], label), []).append(member)
    order = sorted(groups, key=lambda key: [_natural(text) for text in key])
    return [Group(*key, groups[key]) for key in order], notes


def settings(config: dict[str, Any]) -> Settings:
    """Returns the fields that make a run the experiment it is.

    Fields that mean nothing to its algorithm are left open, and so is a replay that never fills.
    """
    recipe = RECIPES.get(config["algo"])
    parts = ConfigDict(
        {
            "algo": config["algo"],
            # runs of earlier versions have the agent of their recipe
            "agent": config.get("agent") or (recipe and recipe.agent),
            "model": {"objective": config["model.objective"]},
            "rollout": {"filter": config["rollout.filter"]},
            "planner": {"name": config.get("planner.name")},
        }
    )
    kept = {
        name: json.dumps(value) if uses(parts, name) else _UNUSED
        for name, value in config.items()
        if name not in _NOT_SETTINGS and not name.startswith(NO_RESULT)
    }
    if config["use_algo"]:
        kept["rollout.filter"] = _UNUSED  # follows from it
    capacity, steps = config["replay_capacity"], config["total_steps"]
    if capacity and steps and capacity >= steps:
        kept["replay_capacity"] = _UNUSED
    return kept


def _members(run: Run) -> list[Member]:
    shared = settings(run.config)
    return [
        Member(run, seed, frame[np.isfinite(frame[RETURN])].set_index(STEP)[RETURN], shared)
        for seed, frame in run.seeds.items()
    ]


def _without_duplicates(members: list[Member]) -> tuple[list[Member], list[str]]:
    """Keeps the longest run of a seed that was run more than once with the same settings."""
    kept: dict[tuple, Member] = {}
    dropped: dict[tuple[Path, Path], list[int]] = {}
    for member in sorted(members, key=lambda m: m.step, reverse=True):
        key = (member.run.config["env"], member.seed, *sorted(member.settings.items()))
        longest = kept.setdefault(key, member)
        if longest is not member:
            pair = (member.run.folder, longest.run.folder)
            dropped.setdefault(pair, []).append(member.seed)
    notes = [
        f"{worse}: the same experiment with the same seed is in {better}, which went at least as "
        f"far and counts; seed {', '.join(map(str, sorted(seeds)))} here is left out."
        for (worse, better), seeds in dropped.items()
    ]
    identities = {id(member) for member in kept.values()}
    return [member for member in members if id(member) in identities], notes


def _differing(members: list[Member]) -> list[str]:
    """Returns the fields that are not the same for all runs of an environment, best names first."""
    environments: dict[str, list[Member]] = {}
    for member in members:
        environments.setdefault(member.run.config["env"], []).append(member)
    names = set().union(*(member.settings for member in members))
    found = {name for same in environments.values() for name in _varying(names, same)}
    return [name for name in _PRIORITY if name in found] + sorted(found.difference(_PRIORITY))


def _varying(names: Iterable[str], members: list[Member]) -> list[str]:
    return [n for n in names if len({m.settings.get(n, _UNUSED) for m in members}) > 1]


def _fewest(members: list[Member], names: list[str]) -> list[str]:
    """Returns few fields that tell apart whatever all of `names` do, the first where possible."""

    def distinct(chosen: list[str]) -> int:
        return len(
            {(m.run.config["env"], *(m.settings.get(n, _UNUSED) for n in chosen)) for m in members}
        )

    chosen: list[str] = []
    for name in names:
        if distinct([*chosen, name]) > distinct(chosen):
            chosen.append(name)
    for name in chosen[::-1]:  # one that split the runs first may add nothing to those after it
        rest = [other for other in chosen if other != name]
        if name not in _PRIORITY and distinct(rest) == distinct(chosen):
            chosen = rest
    return chosen


def _hidden(members: list[Member], naming: list[str]) -> list[str]:
    """Says in what runs of one algorithm and environment differ besides what their names say."""
    notes = []
    kinds = {(m.run.config["algo"], m.run.config["env"]): m for m in members}
    for algo, env in sorted(kinds):
        same = [m for m in members if (m.run.config["algo"], m.run.config["env"]) == (algo, env)]
        names = sorted(set().union(*(m.settings for m in same)))
        rest = [
            name
            for name in names
            if name not in naming and len({m.settings.get(name) for m in same} - {_UNUSED}) > 1
        ]
        if rest:
            what = listed(rest)
            notes.append(f"{algo} on {env}: besides what their names say, groups differ in {what}.")
    return notes


def _label(values: Settings, names: Sequence[str]) -> str:
    """Returns e.g. `mbpo, model.hidden_width=64`; fields that do not apply are left out."""
    given = {name: values.get(name, _UNUSED).strip(_QUOTES) for name in names}
    parts = [
        value if name == "algo" else f"{name}={value}"
        for name, value in given.items()
        if value != _UNUSED
    ]
    return ", ".join(parts)


def _natural(text: str) -> list[str | int]:
    """Returns a sort key that puts `width=64` before `width=200`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", text)]


def _check(names: Sequence[str], members: list[Member]) -> None:
    known = set().union(*(member.settings for member in members))
    for name in names:
        if name in _NOT_SETTINGS or name.startswith(NO_RESULT):
            raise UserError(
                f"--group-by={name}: this field makes no other experiment, or (env) has a panel of "
                "its own anyway. Group by another field, such as algo or model.hidden_width."
            )
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            raise UserError(f"--group-by={name}: no run has this field.{hint}")
