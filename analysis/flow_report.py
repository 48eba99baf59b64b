"""The report's section on divergence flows and model refinement, from the record of refreshes."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis import refreshes
from analysis.refreshes import Tables
from analysis.rendering import markdown_table, save_figure
from experiment import metrics

DIAGNOSTICS_FILE = "diagnostics.png"
GAP, BOUND = "flow/return_gap", "flow/return_gap_bound"
ABSOLUTE_GAP = f"{GAP} (absolute)"
ACCEPTED = "refine/accepted"
FLOW_TIME = "time/flows"
TABLE_PREFIXES = ("flow/", "refine/", "rollout/kept_fraction")
LOG_RANGE = 1e-3  # of the top of a logarithmic axis: a gap that crosses zero has no lowest value
RUNNING_SHARE = 0.05  # of the refreshes, in one running mean: a single one is accepted or not


class Line(NamedTuple):
    """One metric in a panel."""

    column: str
    label: str
    color: str
    style: str = "-"


class Panel(NamedTuple):
    """One set of axes; only what the run recorded is in `lines`."""

    title: str
    lines: list[Line]
    log: bool = False
    limits: tuple[float, float] | None = None
    reference: float | None = None  # where a horizontal line says what to compare with


def section(workdir: Path, epochs: Tables) -> str:
    """Draws `diagnostics.png` and returns the Markdown that goes with it.

    Args:
      workdir: run folder.
      epochs: what `metrics.read` returns for it.

    Returns:
      "", and nothing is drawn, if the run recorded no `flow/` metrics.

    Raises:
      UserError: the disk is full or not writable.
    """
    tables = _read(workdir)
    names = sorted(set().union(*tables.values()))
    if not any(name.startswith("flow/") for name in names):
        return ""
    figure = _figure(_panels(names), tables)
    save_figure(figure, workdir, DIAGNOSTICS_FILE, "The flow diagnostics")
    rows = [
        [name, *(f"{value:.4g}" for value in refreshes.first_and_last_quarter(tables, name))]
        for name in names
        if name.startswith(TABLE_PREFIXES)
    ]
    parts = [
        "## Flow diagnostics",
        f"![Flow diagnostics against environment steps]({DIAGNOSTICS_FILE})",
        " ".join(_findings(tables, epochs)),
        "Means over seeds and over the first and the last quarter of the refreshes:",
        markdown_table(["metric", "first quarter", "last quarter"], rows),
    ]
    return "\n\n".join(filter(None, parts))


def _read(workdir: Path) -> Tables:
    tables = metrics.read_refreshes(workdir)
    for table in tables.values():
        if GAP in table:
            table[ABSOLUTE_GAP] = table[GAP].abs()
    return tables


def _findings(tables: Tables, epochs: Tables) -> list[str]:
    """Returns the sentences on the figure, acceptance, the bound and the time, those that apply."""
    sentences = ["Thin lines are seeds, thick ones their mean."] if len(tables) > 1 else []
    recorded = set().union(*tables.values())
    if ACCEPTED in recorded:
        accepted = refreshes.values(tables, ACCEPTED).to_numpy() > 0.5
        sentences.append(f"The gate accepted the refined model in {_share(accepted)}.")
    if {GAP, BOUND} <= recorded:
        pooled = pd.concat([table[[ABSOLUTE_GAP, BOUND]] for table in tables.values()]).dropna()
        exceeded = (pooled[ABSOLUTE_GAP] > pooled[BOUND]).to_numpy()
        sentences.append(f"The return gap exceeded its bound in {_share(exceeded)}.")
    timed = [table for table in epochs.values() if FLOW_TIME in table]
    if timed:
        shares = [table[FLOW_TIME].sum() / table["wall_clock"].max() for table in timed]
        sentences.append(f"Flows and refinement took {np.mean(shares):.0%} of the wall-clock time.")
    return sentences


def _share(happened: np.ndarray) -> str:
    count, total = int(happened.sum()), happened.size
    return f"{count:,} of {total:,} refreshes ({count / max(total, 1):.1%})"


def _panels(names: list[str]) -> list[Panel]:
    """Returns the panels for which at least one metric was recorded."""

    def lines(*columns: str) -> list[Line]:
        found = [column for column in columns if column in names]
        return [Line(column, column, f"C{index}") for index, column in enumerate(found)]

    panels = [
        Panel(
            "Divergence on held-out segments (nats)",
            lines("flow/dv_heldout", "flow/kl_plugin"),
            log=True,
        ),
        Panel(
            "Kept fraction",
            lines("flow/kept_fraction", "rollout/kept_fraction"),
            limits=(-0.03, 1.03),
        ),
        Panel("Threshold tau (nats)", lines("flow/threshold")),
        Panel("Effective sample size", lines("flow/ess")),
        Panel("Open-loop error, k steps", _open_loop_lines(names), log=True),
        Panel("Refinement accepted (upper ticks) or not", lines(ACCEPTED), limits=(-0.25, 1.25)),
        Panel("Refinement: weight of the RL loss", lines("refine/rl_weight")),
        Panel("Return gap and its bound", lines(ABSOLUTE_GAP, BOUND), log=True),
        Panel("AUC, model against real", lines("flow/auc"), reference=0.5),
    ]
    return [panel for panel in panels if panel.lines]


def _open_loop_lines(names: list[str]) -> list[Line]:
    """Returns the errors of one step and of the most steps, before and after the refinement."""
    found = []
    kinds = [("refine/before_", ", before", "--"), ("refine/after_", ", after", "-")]
    if not any(name.startswith("refine/before_") for name in names):
        kinds = [("model/open_loop_", "", "-")]
    for prefix, when, style in kinds:
        matches = [re.fullmatch(rf"{prefix}(\d+)", name) for name in names]
        steps = sorted(int(match[1]) for match in matches if match)
        for index, k in enumerate(dict.fromkeys([*steps[:1], *steps[-1:]])):
            found.append(Line(f"{prefix}{k}", f"k = {k}{when}", f"C{index}", style))
    return found


def _figure(panels: list[Panel], tables: Tables) -> Figure:
    across = 3 if len(panels) > 4 else 2
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.3 * across, 2.9 * down), dpi=110, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, panel in zip(grid, panels):
        if panel.lines[0].column == ACCEPTED:
            _draw_accepted(axes, refreshes.values(tables, ACCEPTED))
        else:
            for line in panel.lines:
                _draw_line(axes, line, refreshes.values(tables, line.column))
        _decorate(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(len(panels) - across, 0) : len(panels)]:
        axes.set_xlabel("environment steps per seed", fontsize=8)
    return figure


def _draw_line(axes: Axes, line: Line, values: pd.DataFrame) -> None:
    marker = "o" if len(values) == 1 else None  # a line through one point is invisible
    shared: dict[str, Any] = {"color": line.color, "linestyle": line.style, "marker": marker}
    if values.shape[1] > 1:
        axes.plot(values.index, values, linewidth=0.6, alpha=0.35, **shared)
    axes.plot(
        values.index, values.mean(axis=1), linewidth=1.8, label=line.label, zorder=3, **shared
    )


def _draw_accepted(axes: Axes, values: pd.DataFrame) -> None:
    """Draws a tick per refresh and seed, and how often it was accepted lately."""
    seeds = values.shape[1]
    for index, seed in enumerate(values):
        apart = 0.06 + 0.14 * index / seeds  # ticks of one seed above those of another
        heights = np.where(values[seed] > 0.5, 1 + apart, -apart)
        axes.plot(values.index, heights, "|", color="0.4", markersize=4, alpha=0.7)
    window = max(round(RUNNING_SHARE * len(values)), 1)
    running = values.mean(axis=1).rolling(window, min_periods=1).mean()
    label = f"accepted share of the last {window} refreshes"
    axes.plot(values.index, running, color="C0", linewidth=1.8, label=label, zorder=3)


def _decorate(axes: Axes, panel: Panel) -> None:
    if panel.reference is not None:
        axes.axhline(panel.reference, color="0.3", linewidth=1, linestyle=":")
    positive = any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines)
    if panel.log and positive:
        axes.set_yscale("log", nonpositive="mask")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom=max(bottom, LOG_RANGE * top))
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title(panel.title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
