"""Tables and figures of the benchmark tasks, from the tables of finished runs alone.

    python studies/benchmark_tasks/report.py

Reads `results/benchmark_tasks/<task>/<arm>/seed_<K>` and writes `report.md`, `curves.png` and
`parts.png` beside them.
"""

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from analysis import published_curves  # noqa: E402
from analysis.rendering import markdown_table, save_figure  # noqa: E402
from analysis.statistics import mean, probability_of_improvement, t_interval  # noqa: E402
from experiment import metrics  # noqa: E402
from experiment.files import write_text_atomically  # noqa: E402
from studies.benchmark_tasks.run import ARMS, HOPPER, PART_STEPS, RESULTS, TASKS  # noqa: E402

STEP, RETURN, TIME = "env_step", "eval/return", "wall_clock"
BASE = "dhmbpo"
LAST_SHARE = 0.2  # of the steps, over which the second measure averages
FALL = 0.5  # of the best evaluation so far


class Scores(NamedTuple):
    """Measures of an arm, one number per seed."""

    final: np.ndarray  # return of the last evaluation
    late: np.ndarray  # mean over the evaluations of the last fifth of the steps
    whole: np.ndarray  # mean over all evaluations
    falls: np.ndarray  # share of evaluations below half of the best so far
    minutes: np.ndarray


def read(task: str, arm: str, until: int | None = None) -> dict[int, pd.DataFrame]:
    """Returns the table of each seed, up to a number of steps; those that got there."""
    tables = {}
    for folder in sorted((RESULTS / task / arm).glob("seed_*")):
        for seed, table in metrics.read(folder).items():
            rows = table[table[STEP] <= until] if until else table
            if not until or rows[STEP].max() == until:
                tables[seed] = rows
    return tables


def measure(tables: dict[int, pd.DataFrame]) -> Scores:
    """Measures the seeds of one arm."""
    rows = []
    for table in tables.values():
        returns, steps = table[RETURN].to_numpy(), table[STEP].to_numpy()
        late = steps > (1 - LAST_SHARE) * steps[-1]
        falls = returns < FALL * np.maximum.accumulate(returns)
        minutes = table[TIME].iloc[-1] / 60
        rows.append((returns[-1], returns[late].mean(), returns.mean(), falls.mean(), minutes))
    return Scores(*np.array(rows).T)


def interval(values: np.ndarray, digits: int = 0) -> str:
    """Returns mean and 95 % half-width over seeds."""
    return f"{values.mean():,.{digits}f} ± {t_interval(values):,.{digits}f}"


def arms_of(task: str) -> list[str]:
    """Returns the arms of which there are results, the base first."""
    found = sorted(folder.name for folder in (RESULTS / task).glob("*") if folder.is_dir())
    return sorted(found, key=lambda arm: arm != BASE)


def task_table(task: str) -> str:
    """Returns the arms that were run for the task's full length, as Markdown."""
    rows = []
    for arm in arms_of(task):
        tables = read(task, arm)
        last = {int(table[STEP].max()) for table in tables.values()}
        if last == {PART_STEPS}:
            continue
        scores = measure(tables)
        rows.append(
            [
                arm,
                str(len(tables)),
                f"{max(last):,}",
                interval(scores.final),
                interval(scores.late),
                f"{scores.falls.mean():.0%}",
                f"{np.median(scores.minutes):.1f}",
            ]
        )
    header = ["arm", "seeds", "steps", "last evaluation", "last fifth", "falls", "minutes a seed"]
    return markdown_table(header, rows)


def part_table(arms: list[str]) -> str:
    """Returns what leaving a part out changes on Hopper, as Markdown."""
    base = measure(read(HOPPER, BASE, PART_STEPS))
    rows = []
    for arm in arms:
        scores = measure(read(HOPPER, arm, PART_STEPS))
        better = probability_of_improvement([scores.whole], [base.whole])
        rows.append(
            [
                arm,
                str(len(scores.final)),
                interval(scores.final),
                interval(scores.late),
                interval(scores.whole),
                f"{mean(scores.whole) - mean(base.whole):+,.0f}",
                f"{better.value:.2f} ({better.low:.2f} to {better.high:.2f})",
                f"{scores.falls.mean():.0%}",
            ]
        )
    header = ["arm", "seeds", "at 20,000", "last fifth", "all evaluations", "difference"]
    return markdown_table([*header, "probability of improvement", "falls"], rows)


def draw_curves(arms: tuple[str, ...]) -> None:
    """Draws mean and interval over seeds against steps, published curves behind."""
    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained")
    for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
        for index, arm in enumerate(arms):
            tables = read(task, arm)
            if not tables:
                continue
            curves = pd.DataFrame({k: t.set_index(STEP)[RETURN] for k, t in tables.items()})
            curves = curves.dropna()
            middle, half = curves.mean(axis=1), t_interval(curves.to_numpy())
            color = f"C{index}"
            axes.fill_between(curves.index, middle - half, middle + half, alpha=0.2, color=color)
            label = f"{arm}, {len(tables)} seeds"
            axes.plot(curves.index, middle, color=color, linewidth=2, label=label)
        last = axes.get_xlim()[1]
        published_curves.draw(axes, published_curves.relevant(task, [BASE], last))
        axes.set_title(task)
        axes.set_xlabel("environment steps")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
    figure.get_axes()[0].set_ylabel("greedy return")
    save_figure(figure, RESULTS, "curves.png", "The curves")


def draw_parts(arms: list[str]) -> None:
    """Draws each seed's mean return over all evaluations, arm by arm."""
    figure = Figure(figsize=(7, 0.5 * len(arms) + 1.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, arm in enumerate(reversed(arms)):
        scores = measure(read(HOPPER, arm, PART_STEPS)).whole
        axes.plot(scores, np.full(len(scores), row), "o", color="C0", alpha=0.5)
        axes.errorbar(scores.mean(), row, xerr=t_interval(scores), fmt="|", color="C1", capsize=4)
    axes.set_yticks(range(len(arms)), list(reversed(arms)))
    axes.set_xlabel(f"{HOPPER}: mean greedy return over the evaluations up to {PART_STEPS:,} steps")
    axes.grid(alpha=0.3, axis="x")
    save_figure(figure, RESULTS, "parts.png", "The figure of the parts")


def main() -> None:
    """Writes the report."""
    sections = ["# Benchmark tasks: tables"]
    for task in TASKS:
        if arms_of(task):
            sections += [f"## {task}", task_table(task)]
    same_agent = [arm for arm in arms_of(HOPPER) if ARMS[arm].config == BASE]
    parts = [arm for arm in same_agent if read(HOPPER, arm, PART_STEPS)]
    if len(parts) > 1:
        sections += [f"## What carries it: {HOPPER} to {PART_STEPS:,} steps", part_table(parts)]
        draw_parts(parts)
    draw_curves((BASE, "early_starts", "sac"))
    sections.append(
        "Mean over seeds ± half-width of the 95 % Student-t interval. Last fifth: mean over the "
        "evaluations of the last fifth of the steps. Falls: share of evaluations below half of the "
        "best before. Difference and probability of improvement: all evaluations, against "
        f"{BASE}; established where the interval excludes 0.5."
    )
    write_text_atomically(RESULTS / "report.md", "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
