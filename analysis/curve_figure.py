"""The figure of the learning curves of a comparison, with published curves and values."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis import published_curves
from analysis.comparison import Tables
from analysis.published import HALF_WIDTH, NEAR
from analysis.wording import counted

_REFERENCE = "0.35"  # grey of published values whose algorithm is not that of exactly one group
_SOURCE_WIDTH = 48  # characters
_SOURCE_LINE_HEIGHT = 0.043  # in heights of a panel
_LINE_HEIGHT = 0.055  # of the name of a curve, in heights of a panel

Styles = dict[str, dict[str, Any]]  # by group: matplotlib's color and linestyle


def drawn_references(tables: Tables) -> pd.DataFrame:
    """Returns the published values that are near enough to the curves to be drawn.

    Those of a band are left out where the band itself is drawn.

    Two new columns: `origin`, algorithm and source, and `mark`, its number within an environment.
    """
    last = tables["curves"].groupby("env")["step"].max()
    rows = tables["published"]
    near = rows["step"] <= NEAR * rows["env"].map(last).astype(float)
    curves = tables["published_curves"]
    banded = rows["env"].isin(curves.loc[curves["algorithm"] == published_curves.BAND, "env"])
    drawn = banded & (rows["spread_kind"] == HALF_WIDTH)
    rows = rows[near & ~drawn & (rows["variant"] == "")]
    rows = rows.assign(origin=rows["algo"] + ": " + rows["source"])
    marks = rows.groupby("env")["origin"].transform(lambda origins: pd.factorize(origins)[0] + 1)
    return rows.assign(mark=marks)


def figure(tables: Tables, styles: Styles) -> Figure:
    """Returns one row per environment: mean and interquartile mean over seeds."""
    envs = list(dict.fromkeys(tables["curves"]["env"]))
    page = Figure(figsize=(13, 4.2 * len(envs)), dpi=110, layout="constrained")
    grid = page.subplots(len(envs), 2, squeeze=False, sharex="row", sharey="row")
    references = drawn_references(tables)
    for env, (left, right) in zip(envs, grid):
        curves = tables["curves"][tables["curves"]["env"] == env]
        for axes, column, title in (
            (left, "mean", "mean over seeds"),
            (right, "iqm", "interquartile mean"),
        ):
            for group, curve in curves.groupby("group"):
                _draw_curve(axes, curve, column, styles[group])
            axes.set_title(f"{env}: {title}", fontsize=11)
            axes.set_xlabel("environment steps per seed")
        left.set_ylabel("return (sum of rewards per episode)")
        summary = tables["summary"][tables["summary"]["env"] == env].set_index("group")
        compared = summary["step"].max()
        if compared < curves["step"].max():
            for axes in (left, right):
                axes.axvline(compared, color="0.4", linestyle=":", linewidth=1)
        behind = tables["published_curves"]
        published_curves.draw(left, behind[behind["env"] == env])
        published = references[references["env"] == env]
        _draw_references(left, published, summary["algo"], styles)
        for axes in (left, right):
            _decorate(axes)
        height = _list_published_curves(left, right, lowest=_list_sources(right, published))
        _label_curves(right, curves, styles, lowest=height)
    return page


def _draw_curve(axes: Axes, curve: pd.DataFrame, column: str, style: dict[str, Any]) -> None:
    few = curve[f"{column}_low"].isna().all()
    low, high = ("min", "max") if few else (f"{column}_low", f"{column}_high")
    marker = "o" if len(curve) == 1 else None  # a line through one point is invisible
    color = style["color"]
    axes.fill_between(curve["step"], curve[low], curve[high], color=color, alpha=0.1, linewidth=0)
    for end in (low, high):
        axes.plot(curve["step"], curve[end], color=color, alpha=0.5, linewidth=0.7)
    axes.plot(curve["step"], curve[column], linewidth=2, marker=marker, **style)


def _draw_references(axes: Axes, rows: pd.DataFrame, algos: pd.Series, styles: Styles) -> None:
    """Draws published values as diamonds in the colour of the group with their algorithm."""
    for row in rows.itertuples():
        groups = algos.index[algos == row.algo]
        color = styles[groups[0]]["color"] if len(groups) == 1 else _REFERENCE
        spread = None if np.isnan(row.spread) else row.spread
        shape: dict[str, Any] = {
            "marker": "D",
            "markersize": 7,
            "markeredgecolor": "black",
            "capsize": 3,
        }
        axes.errorbar(
            row.step, row.mean, yerr=spread, color=color, linestyle="none", zorder=4, **shape
        )
        place: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points", "zorder": 5}
        axes.annotate(f"[{row.mark}]", (row.step, row.mean), fontsize=8, **place)


def _list_sources(axes: Axes, rows: pd.DataFrame) -> float:
    """Writes what the marks of published values stand for to the lower right of the axes.

    Returns:
      The height it takes, in heights of the axes.
    """
    if rows.empty:
        return 0.0
    lines = ["published:"]
    for mark, origin in rows.groupby("mark")["origin"].first().items():
        lines += textwrap.wrap(f"[{mark}] {origin}", _SOURCE_WIDTH)
    text = "\n".join(lines)
    axes.text(1.02, 0.0, text, transform=axes.transAxes, va="bottom", fontsize=8, color="0.3")
    return _SOURCE_LINE_HEIGHT * (len(lines) + 1)


def _list_published_curves(left: Axes, right: Axes, lowest: float) -> float:
    """Writes the legend of the left axes beside the right ones, from `lowest` on.

    Returns:
      The height of its upper end, in heights of the axes.
    """
    handles, names = left.get_legend_handles_labels()
    if not handles:
        return lowest
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (1.02, lowest)}
    style: dict[str, Any] = {"fontsize": 8, "labelcolor": "0.3", "frameon": False}
    right.legend(handles, names, **place, **style, borderpad=0, borderaxespad=0)
    return lowest + _LINE_HEIGHT * (len(handles) + 0.5)


def _label_curves(axes: Axes, curves: pd.DataFrame, styles: Styles, lowest: float) -> None:
    """Writes the name of each group beside the end of its curve, but not below `lowest`."""
    ends = curves.groupby("group").last().sort_values("iqm")
    names = [f"{group} ({counted(row.seeds, 'seed')})" for group, row in ends.iterrows()]
    names = [name.replace(", ", ",\n") for name in names]
    low, high = axes.get_ylim()
    heights = _apart(
        np.maximum((ends["iqm"].to_numpy() - low) / (high - low), lowest),
        _LINE_HEIGHT * np.array([1.5 + name.count("\n") for name in names]),
    )
    for group, name, height in zip(ends.index, names, heights):
        style = {**styles[group], "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.02, 1.1], [height, height], linewidth=2, **style)
        color = styles[group]["color"]
        axes.text(1.12, height, name, transform=axes.transAxes, va="center", color=color)


def _apart(heights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Moves increasing positions within [0, 1] apart so that labels of these sizes fit."""
    moved = heights.copy()
    for index in range(1, len(moved)):
        gap = (sizes[index] + sizes[index - 1]) / 2
        moved[index] = max(moved[index], moved[index - 1] + gap)
    moved[-1] = min(moved[-1], 1.0)
    for index in range(len(moved) - 2, -1, -1):
        gap = (sizes[index] + sizes[index + 1]) / 2
        moved[index] = min(moved[index], moved[index + 1] - gap)
    return moved


def _decorate(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    grid_only(axes)


def grid_only(axes: Axes) -> None:
    """Leaves axes a light grid and two of their four borders."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
