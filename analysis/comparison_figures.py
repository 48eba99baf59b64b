"""The figures of a comparison, drawn from its CSV files alone."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import comparison, curve_figure
from analysis.comparison import MEASURES, Tables
from analysis.cost import OTHER_TIME
from analysis.curve_figure import Styles, grid_only
from analysis.rendering import save_figure
from analysis.run_report import STAGES

CURVES_FILE, SCORES_FILE, TIME_FILE = "curves.png", "scores.png", "time.png"
# Okabe and Ito's colours for all kinds of colour vision, without yellow, which white swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_STAGE_COLORS = (
    "#56B4E9",
    "#0072B2",
    "#D55E00",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "0.5",
    "#882255",
    "0.8",
)
_SCORE_LEGEND: dict[str, dict[str, Any]] = {
    "mean": {"color": "0.3", "marker": "o", "linewidth": 2.5},
    "interquartile mean": {
        "color": "0.3",
        "marker": "s",
        "linewidth": 2.5,
        "markerfacecolor": "white",
    },
    "one seed": {"color": "0.45", "marker": "|", "linestyle": "none", "markersize": 9},
    "by final return": {"color": "black", "marker": "D", "linewidth": 2},
    "by mean return over the run": {
        "color": "black",
        "marker": "D",
        "linewidth": 2,
        "markerfacecolor": "white",
    },
}
_RANGE: dict[str, Any] = {"linewidth": 1.5, "linestyle": ":"}  # of seeds too few for an interval
_MOST_PAIRS = 10  # of groups, before only those with the best are shown


def draw(folder: Path) -> None:
    """Draws every figure again from the CSV files in a folder.

    Raises:
      UserError: a CSV file is missing or damaged, or the disk is full or not writable.
    """
    tables = comparison.read(folder)
    styles = _styles(tables)
    save_figure(curve_figure.figure(tables, styles), folder, CURVES_FILE, "The learning curves")
    save_figure(_scores(tables, styles), folder, SCORES_FILE, "The figure of the scores")
    save_figure(_time(tables), folder, TIME_FILE, "The figure of the time")


def _styles(tables: Tables) -> Styles:
    groups = dict.fromkeys(tables["summary"]["group"])
    pairs = zip(itertools.cycle(_COLORS), itertools.cycle(_LINES))
    return {
        group: {"color": color, "linestyle": line} for group, (color, line) in zip(groups, pairs)
    }


def _scores(tables: Tables, styles: Styles) -> Figure:
    """Returns one row per environment: both scores of every group and who beats whom."""
    summary = tables["summary"]
    envs = list(dict.fromkeys(summary["env"]))
    pairs = {env: _shown_pairs(tables, env) for env in envs}
    rows = [max((summary["env"] == env).sum(), len(pairs[env]) // len(MEASURES)) for env in envs]
    figure = Figure(
        figsize=(13, 0.5 + sum(1.2 + 0.45 * count for count in rows)), dpi=110, layout="constrained"
    )
    grid = figure.subplots(len(envs), 3, squeeze=False, height_ratios=[3 + n for n in rows])
    for env, panels in zip(envs, grid):
        groups = summary[summary["env"] == env].sort_values("final_mean").reset_index(drop=True)
        seeds = tables["scores"][tables["scores"]["env"] == env]
        for axes, (measure, title) in zip(panels, MEASURES.items()):
            _draw_scores(axes, groups, seeds, measure, styles)
            axes.set_xlabel(title)
        panels[0].set_yticks(groups.index, groups["group"])
        panels[1].set_yticks(groups.index, [])
        title = f"{env}, step {groups['step'].max():,}"
        panels[0].set_title(title, fontsize=11, loc="left")
        _draw_improvement(panels[2], pairs[env])
    legend = dict(_SCORE_LEGEND)
    if (summary["final_mean_low"].isna() & (summary["seeds"] > 1)).any():
        legend["range, too few seeds"] = {"color": "0.3", **_RANGE}
    figure.legend(
        handles=[Line2D([], [], label=label, **style) for label, style in legend.items()],
        loc="outside upper center",
        ncols=len(legend),
        frameon=False,
        fontsize=9,
    )
    return figure


def _draw_scores(
    axes: Axes, groups: pd.DataFrame, scores: pd.DataFrame, measure: str, styles: Styles
) -> None:
    for row in groups.itertuples():
        color = styles[row.group]["color"]
        values = scores.loc[scores["group"] == row.group, measure]
        axes.plot(values, [row.Index] * len(values), "|", color="0.45", markersize=9)
        for name, marker, offset in (("mean", "o", 0.16), ("iqm", "s", -0.16)):
            low, value, high = (
                getattr(row, f"{measure}_{name}{end}") for end in ("_low", "", "_high")
            )
            line: dict[str, Any] = {"linewidth": 2.5}
            if not np.isfinite(low):
                low, high, line = values.min(), values.max(), _RANGE
            axes.plot([low, high], [row.Index + offset] * 2, color=color, **line)
            fill = color if name == "mean" else "white"
            axes.plot(value, row.Index + offset, marker, color=color, markerfacecolor=fill)
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    grid_only(axes)


def _shown_pairs(tables: Tables, env: str) -> pd.DataFrame:
    """Returns all pairs of groups, or those with the best where that is too many to read."""
    pairs = tables["improvement"]
    pairs = pairs[pairs["env"] == env]
    if len(pairs) > len(MEASURES) * _MOST_PAIRS:
        summary = tables["summary"]
        best = summary.loc[summary[summary["env"] == env]["final_mean"].idxmax(), "group"]
        pairs = pairs[(pairs["group"] == best) | (pairs["other"] == best)]
    return pairs


def _draw_improvement(axes: Axes, pairs: pd.DataFrame) -> None:
    if pairs.empty:
        axes.set_axis_off()
        return
    names = [f"{row.group} over\n{row.other}" for row in pairs.itertuples()]
    heights = {name: -index for index, name in enumerate(dict.fromkeys(names))}
    for measure, offset, fill in zip(MEASURES, (0.16, -0.16), ("black", "white")):
        for name, row in zip(names, pairs.itertuples()):
            if row.measure == measure:
                height = heights[name] + offset
                if np.isfinite(row.low):
                    axes.plot([row.low, row.high], [height] * 2, color="black", linewidth=2)
                axes.plot(row.probability, height, "D", color="black", markerfacecolor=fill)
    axes.axvline(0.5, color="0.4", linestyle=":")
    axes.set_xlim(-0.03, 1.03)
    axes.set_yticks(list(heights.values()), list(heights), fontsize=8)
    axes.set_ylim(-len(heights) + 0.4, 0.6)
    axes.set_xlabel("probability of improvement")
    grid_only(axes)


def _time(tables: Tables) -> Figure:
    """Returns stacked bars: the minutes of each stage up to the step of the comparison."""
    times = tables["time"].assign(bar=tables["time"]["env"] + "\n" + tables["time"]["group"])
    bars = list(dict.fromkeys(times["bar"]))[::-1]
    stages = [*STAGES.values(), OTHER_TIME]
    figure = Figure(figsize=(10, 1.4 + 0.55 * len(bars)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(bars))
    for stage, color in zip(stages, itertools.cycle(_STAGE_COLORS)):
        seconds = times[times["stage"] == stage].set_index("bar")["seconds"]
        if seconds.empty:
            continue
        minutes = seconds.reindex(bars, fill_value=0.0).to_numpy() / 60
        axes.barh(bars, minutes, left=left, label=stage, color=color, edgecolor="white")
        left += minutes
    axes.set_xlabel("wall-clock minutes per run, all of its seeds together")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure
