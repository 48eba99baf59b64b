"""The figures of the CartPole study of optimal model design, in the paper's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from analysis import omd_study
from analysis.curve_figure import grid_only
from analysis.omd_study import AXES, RETURN, WIDTH, Axis, Tables
from analysis.rendering import save_figure
from analysis.statistics import FEWEST_FOR_INTERVAL, t_interval
from experiment.seed_tables import STEP

RETURNS_FIGURE, ERRORS_FIGURE, CURVES_FIGURE = "returns.png", "model_error.png", "curves.png"
# Okabe and Ito's colours for all kinds of colour vision.
_COLORS = {"omd": "#0072B2", "mle": "#D55E00", "vep": "#009E73"}
_OTHER_COLOR = "0.3"
_APART = 1.05  # factor between algorithms on a logarithmic axis: error bars beside each other
_SIZE: dict[str, Any] = {"dpi": 110, "layout": "constrained"}
_HOLLOW: dict[str, Any] = {
    "marker": "D",
    "markersize": 6,
    "markerfacecolor": "none",
    "linestyle": ":",
    "linewidth": 0.8,
}


def draw(tables: Tables, folder: Path) -> None:
    """Draws the figures; that of the model's error only where model widths were varied.

    Raises:
      UserError: the disk is full or not writable.
    """
    points = tables.points
    save_figure(returns(points), folder, RETURNS_FIGURE, "The figure of the returns")
    save_figure(curves(tables), folder, CURVES_FIGURE, "The learning curves")
    if len(WIDTH.of(points)):
        save_figure(model_errors(points), folder, ERRORS_FIGURE, "The figure of the model errors")


def returns(points: pd.DataFrame) -> Figure:
    """Returns final returns over model width and over distractors, with the published ones."""
    shown = [axis for axis in AXES if len(axis.of(points))]
    figure = Figure(figsize=(max(5.5 * len(shown), 7), 4.4), **_SIZE)
    algos = omd_study.algorithms(points)
    for axes, axis in zip(np.ravel(figure.subplots(1, len(shown), sharey=True)), shown):
        theirs = {place: mean for place, (mean, _) in omd_study.published_returns(axis).items()}
        for algo in algos:
            ours = []
            for level in omd_study.levels(points, axis):
                values = omd_study.seeds_of(points, axis, algo, level, "final_return")
                half = omd_study.interval(values)
                if len(values):
                    ours.append((level, values.mean(), half, half))
            _draw_line(axes, algo, algos, ours)
            _draw_published(axes, algo, algos, theirs)
        known = {level for name, level in theirs if name in algos}
        _decorate(axes, axis, {*omd_study.levels(points, axis), *known})
    figure.axes[0].set_ylabel(f"return (mean of the last {omd_study.LAST} evaluations)")
    _legend(figure, algos, points)
    return figure


def model_errors(points: pd.DataFrame) -> Figure:
    """Returns the squared error of the next state over model width, as in the paper's table 1."""
    figure = Figure(figsize=(7, 4.6), **_SIZE)
    axes, algos = figure.add_subplot(), omd_study.algorithms(points)
    for algo in algos:
        ours = []
        for level in omd_study.levels(points, WIDTH):
            values = omd_study.seeds_of(points, WIDTH, algo, level, "next_state_mse")
            if len(values):
                mean, low, high = omd_study.log_interval(values)
                ours.append((level, mean, mean - low, high - mean))
        _draw_line(axes, algo, algos, ours)
        table = omd_study.PUBLISHED_MSE.get(algo, {})
        _draw_published(axes, algo, algos, {(algo, level): mse for level, mse in table.items()})
    axes.axhline(omd_study.UNTRAINED_MSE, color="0.4", linestyle=":", linewidth=1.2)
    known = {level for algo in algos for level in omd_study.PUBLISHED_MSE.get(algo, {})}
    _decorate(axes, WIDTH, {*omd_study.levels(points, WIDTH), *known})
    axes.set_yscale("log")
    axes.set_title("Error of the model (dotted: untrained, published)", fontsize=11)
    axes.set_ylabel("squared error of the next state")
    _legend(figure, algos, points, columns=3)
    return figure


def curves(tables: Tables) -> Figure:
    """Returns learning curves at the first and the last level of an axis that was run."""
    axis = next(axis for axis in AXES if len(axis.of(tables.points)))
    shown = omd_study.levels(tables.points, axis)
    shown = list(dict.fromkeys([shown[0], shown[-1]]))
    algos = omd_study.algorithms(tables.points)
    figure = Figure(figsize=(5.5 * len(shown), 4.2), **_SIZE)
    rows = axis.of(tables.curves)
    for axes, level in zip(np.ravel(figure.subplots(1, len(shown), sharey=True)), shown):
        for algo in algos:
            chosen = rows[(rows["algo"] == algo) & (rows[axis.column] == level)]
            table = chosen.pivot(index=STEP, columns="seed", values=RETURN).dropna()
            _draw_curve(axes, table, algo)
        axes.set_title(f"{axis.title} {level}", fontsize=11)
        axes.set_xlabel("environment steps per seed")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        grid_only(axes)
    figure.axes[0].set_ylabel(f"return (every {omd_study.EVERY}th evaluation)")
    handles = [Line2D([], [], color=_color(algo), label=algo, linewidth=2) for algo in algos]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(algos), frameon=False)
    return figure


def _draw_line(
    axes: Axes, algo: str, algos: Sequence[str], rows: Sequence[tuple[float, ...]]
) -> None:
    """Draws one algorithm: a line through its means, and intervals where they are known.

    Args:
      axes: where to.
      algo: the algorithm.
      algos: all of them.
      rows: level, mean, and how far the interval reaches below and above it.
    """
    if not rows:
        return
    level, mean, below, above = np.array(rows).T
    axes.errorbar(
        level * _shift(algo, algos),
        mean,
        yerr=[below, above],
        color=_color(algo),
        marker="o",
        markersize=5,
        linewidth=2,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )


def _draw_published(
    axes: Axes, algo: str, algos: Sequence[str], means: dict[tuple[str, int], float]
) -> None:
    """Draws the published means of one algorithm as hollow marks."""
    places = [(level, mean) for (name, level), mean in means.items() if name == algo]
    if places:
        level, mean = np.array(places).T
        axes.plot(level * _shift(algo, algos), mean, color=_color(algo), zorder=2.5, **_HOLLOW)


def _draw_curve(axes: Axes, table: pd.DataFrame, algo: str) -> None:
    if table.empty:
        return
    steps, values, color = table.index.to_numpy(), table.to_numpy(), _color(algo)
    mean = values.mean(axis=1)
    if values.shape[1] >= FEWEST_FOR_INTERVAL:
        half = t_interval(values)
        axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    marker = "o" if len(steps) == 1 else None  # a line through one point is invisible
    axes.plot(steps, mean, color=color, linewidth=2, marker=marker)


def _decorate(axes: Axes, axis: Axis, levels: set[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(levels), map(str, sorted(levels)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(axis.title, fontsize=11)
    axes.set_xlabel(axis.unit)
    grid_only(axes)


def _legend(
    figure: Figure, algos: Sequence[str], points: pd.DataFrame, columns: int | None = None
) -> None:
    ours = f"ours, after {points['steps'].max():,} steps"
    theirs = f"published, after {omd_study.PUBLISHED_STEPS:,} steps"
    handles = [
        *(Line2D([], [], color=_color(a), marker="o", linewidth=2, label=a) for a in algos),
        Line2D([], [], color="0.3", label=ours, marker="o", linewidth=2),
        Line2D([], [], color="0.3", label=theirs, **_HOLLOW),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns or len(handles),
        frameon=False,
        fontsize=9,
    )


def _color(algo: str) -> str:
    return _COLORS.get(algo, _OTHER_COLOR)


def _shift(algo: str, algos: Sequence[str]) -> float:
    """Returns the factor that moves an algorithm's marks aside."""
    return _APART ** (list(algos).index(algo) - (len(algos) - 1) / 2)
