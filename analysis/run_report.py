"""The learning curve and the written report of a run, from its metrics and `config.json` alone."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import flow_report, omd_report, published_curves
from analysis.rendering import markdown_table, save_figure
from analysis.statistics import FEWEST_FOR_INTERVAL, t_interval
from analysis.wording import counted, hardware
from experiment import metrics
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.progress import duration
from experiment.run_folder import REPORT_FILE, read_config

CURVE_FILE = "curve.png"
FINAL_EVALUATIONS = 5  # averaged into one final return per seed, as a single one is noisy
STAGES = {
    "time/environment": "environment steps",
    "time/model": "model fits",
    "time/flows": "flows and refinement",
    "time/rollouts": "model rollouts",
    "time/policy": "policy updates",
    "time/evaluation": "evaluation",
    "time/checkpoint": "checkpoints",
    "time/diagnostics": "diagnostics of hypergradients",
}


class Outcome(NamedTuple):
    """What one seed achieved, in evaluation returns."""

    final: float  # mean of the last FINAL_EVALUATIONS evaluations
    best: float
    best_step: int  # environment steps at the best evaluation
    first: float


def draw_curve(workdir: Path) -> None:
    """Draws `curve.png`: evaluation return against environment steps, per seed and on average.

    Raises:
      UserError: `workdir` is not a run folder, or the disk is full or not writable.
    """
    returns = _returns(workdir)
    config = read_config(workdir)["config"]
    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    if returns.empty:
        axes.text(0.5, 0.5, "no evaluation yet", ha="center", transform=axes.transAxes)
    else:
        published_curves.draw(axes, _published(config, returns))
        _draw_returns(axes, returns)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes.set_title(f"{config.get('algo')} \N{EN DASH} {config.get('env')}")
    axes.set_xlabel("environment steps per seed")
    axes.set_ylabel("evaluation return (sum of rewards per episode)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    save_figure(figure, workdir, CURVE_FILE, "The learning curve")


def write_report(workdir: Path, command: str) -> None:
    """Writes `report.md` and the figures it shows.

    Args:
      workdir: run folder with at least a `config.json`.
      command: what the user typed to start the run.

    Raises:
      UserError: as for `draw_curve`.
    """
    workdir = Path(workdir)
    draw_curve(workdir)
    description = read_config(workdir)
    frames = metrics.read(workdir)
    returns = _returns(workdir)
    outcomes = _outcomes(returns)
    config = description["config"]
    sections = [
        f"# {config.get('algo')} on {config.get('env')}",
        _finding(config, outcomes, _last(frames, "env_step")),
        f"![Evaluation return against environment steps]({CURVE_FILE})",
        _results_section(outcomes),
        published_curves.section(_published(config, returns)),
        flow_report.section(workdir, frames),
        omd_report.section(workdir, frames, config),
        _time_section(frames),
        _setup_section(command, config, description["environment"]),
    ]
    with disk_problems_as_user_errors(workdir, "The report"):
        write_text_atomically(workdir / REPORT_FILE, "\n\n".join(filter(None, sections)) + "\n")


def _returns(workdir: Path) -> pd.DataFrame:
    """Returns evaluation returns, one column per seed, at the steps where every seed has one."""
    columns = {
        seed: frame.set_index("env_step")["eval/return"].dropna()
        for seed, frame in metrics.read(workdir).items()
    }
    return pd.DataFrame(columns).dropna().sort_index()


def _published(config: dict[str, Any], returns: pd.DataFrame) -> pd.DataFrame:
    """Returns the published curves behind these returns."""
    last = returns.index.max() if len(returns) else 0
    return published_curves.relevant(config.get("env", ""), [config.get("algo", "")], last)


def _draw_returns(axes: Axes, returns: pd.DataFrame) -> None:
    steps, values = returns.index.to_numpy(), returns.to_numpy()
    seeds = values.shape[1]
    mean = values.mean(axis=1)
    marker = "o" if len(steps) == 1 else None  # a line through one point is invisible
    if seeds > 1:
        if seeds >= FEWEST_FOR_INTERVAL:
            half_width = t_interval(values)
            low, high = mean - half_width, mean + half_width
            label = "95 % Student-t interval of the mean over seeds"
        else:
            low, high = values.min(axis=1), values.max(axis=1)
            label = f"range of the {seeds} seeds, too few for an interval"
        axes.fill_between(steps, low, high, alpha=0.2, color="C0", linewidth=0, label=label)
        label = f"mean of {seeds} seeds"
        axes.plot(steps, mean, color="C0", linewidth=2.5, marker=marker, label=label, zorder=3)
    for index, seed in enumerate(returns.columns):
        style = {"color": "0.5", "linewidth": 0.8} if seeds > 1 else {"linewidth": 2.0}
        name = f"seed {seed}" if seeds == 1 else "single seeds" if index == 0 else None
        axes.plot(steps, values[:, index], marker=marker, label=name, **style)


def _outcomes(returns: pd.DataFrame) -> dict[int, Outcome]:
    if returns.empty:
        return {}
    return {
        int(seed): Outcome(
            final=float(column.iloc[-FINAL_EVALUATIONS:].mean()),
            best=float(column.max()),
            best_step=int(column.idxmax()),
            first=float(column.iloc[0]),
        )
        for seed, column in returns.items()
    }


def _finding(config: dict[str, Any], outcomes: dict[int, Outcome], step: float) -> str:
    what = f"{config.get('algo')} on {config.get('env')}"
    if not outcomes:
        return f"No evaluation of {what} was recorded, so there is no result to report."
    final = np.array([outcome.final for outcome in outcomes.values()])
    first = np.mean([outcome.first for outcome in outcomes.values()])
    after = f"After {step:,.0f} environment steps per seed, {what} reaches a return of "
    if len(final) == 1:
        seed = next(iter(outcomes))
        return (
            f"{after}**{final[0]:.1f}**, from {first:.1f} at the first evaluation. "
            f"This is seed {seed} alone: it says nothing about the spread between seeds."
        )
    if len(final) < FEWEST_FOR_INTERVAL:
        return (
            f"{after}**{final.mean():.1f}** (mean of {len(final)} seeds, which reach between "
            f"{final.min():.1f} and {final.max():.1f} and are too few for an interval), "
            f"from {first:.1f} at the first evaluation."
        )
    return (
        f"{after}**{final.mean():.1f} ± {t_interval(final):.1f}**, "
        f"from {first:.1f} at the first evaluation "
        f"(mean of {len(final)} seeds with its 95 % Student-t interval)."
    )


def _results_section(outcomes: dict[int, Outcome]) -> str:
    if not outcomes:
        return ""
    best_seed = max(outcomes, key=lambda seed: outcomes[seed].best)
    best = outcomes[best_seed]
    rows = [
        [str(seed), f"{o.final:.1f}", f"{o.best:.1f}", f"{o.best_step:,}"]
        for seed, o in outcomes.items()
    ]
    return (
        "## Returns\n\n"
        f"The final return of a seed is the mean of its last {FINAL_EVALUATIONS} evaluations. "
        f"The best single evaluation was {best.best:.1f}, "
        f"by seed {best_seed} at step {best.best_step:,}.\n\n"
        + markdown_table(["seed", "final return", "best evaluation", "at step"], rows)
    )


def _time_section(frames: dict[int, pd.DataFrame]) -> str:
    total = _last(frames, "wall_clock")
    seconds = {
        label: float(np.mean([frame[name].sum() for frame in frames.values() if name in frame]))
        for name, label in STAGES.items()
        if any(name in frame for frame in frames.values())
    }
    text = f"## Time\n\nThe run took {duration(total)} (h:mm:ss), all seeds together."
    if not seconds:
        return text
    other = total - sum(seconds.values())
    if other > 0:
        seconds["metrics files, curve and the rest"] = other
    whole = sum(seconds.values()) or 1.0
    rows = [[stage, f"{s:.1f}", f"{s / whole:.0%}"] for stage, s in seconds.items()]
    return f"{text}\n\n" + markdown_table(["stage", "seconds", "share"], rows)


def _setup_section(command: str, config: dict[str, Any], environment: dict[str, Any]) -> str:
    first, count = config.get("seed", 0), config.get("num_seeds", 1)
    seeds = ", ".join(str(seed) for seed in range(first, first + count))
    versions, found = environment.get("versions", {}), environment.get("hardware", {})
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    lines = [
        f"- environment: {config.get('env')}",
        f"- seeds: {seeds}",
        f"- hardware: {hardware(found)}, {found.get('memory_gib', '?')} GiB memory, "
        f"{counted(len(found.get('devices', [])), 'JAX device')}",
        f"- libraries: {libraries}",
        f"- code: {_code(environment.get('git'))}",
        f"- started: {environment.get('date', 'unknown')}",
    ]
    return f"## Setup\n\n```\n{command}\n```\n\n" + "\n".join(lines)


def _code(git: dict[str, Any] | None) -> str:
    if git is None:
        return "not in a git repository"
    return f"commit {git['commit']}" + (", with uncommitted changes" if git["dirty"] else "")


def _last(frames: dict[int, pd.DataFrame], column: str) -> float:
    """Returns the largest value of a column over the seeds, 0 without any rows."""
    values = [frame[column].max() for frame in frames.values() if len(frame)]
    return float(np.nan_to_num(max(values, default=0.0)))
