"""The figure page of a diagnosis, from its table alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtr, ndtri

from analysis.diagnosis_table import (
    REWARD,
    at,
    dimensions,
    has_model,
    only,
    pooled_half_width,
    select,
    termination_counts,
)
from analysis.wording import counted, number

MODEL, YARDSTICK, SPREAD, REAL = "C0", "0.45", "C1", "k"
LARGEST_OVERSHOOT = 20.0  # times the real returns: beyond it, the axis of returns is compressed
MOST_TICKS = 24  # dimensions that are named one by one


def draw(frame: pd.DataFrame) -> Figure:
    """Draws the page: eight panels, or the values alone for an agent without a model."""
    panels = PANELS if has_model(frame) else {"value": _draw_value}
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    width = max(4.6 * across, 7.0)
    figure = Figure(figsize=(width, 4.0 * down + 0.5), dpi=110, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, panel in zip(grid, panels.values()):
        panel(axes, frame)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none")
    seeds = frame.seed.nunique()
    several = f"\nstrong: mean of {seeds} seeds, faint: single seeds" if seeds > 1 else ""
    figure.suptitle(frame.run.iloc[0] + several, fontsize=13)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, label: str, color: str, **style: Any) -> None:
    """Draws one column per seed thinly and their mean thickly, where all seeds have a value."""
    if table.empty:
        return
    places = table.index.to_numpy()
    mean = table.mean(axis=1, skipna=False).to_numpy()
    style = {"color": color, "marker": "o" if len(places) == 1 else None} | style
    if table.shape[1] > 1:
        axes.plot(places, table.to_numpy(), linewidth=0.8, alpha=0.5, **style)
    axes.plot(places, mean, linewidth=2.2, zorder=3, label=label, **style)


def _draw_drift(axes: Axes, frame: pd.DataFrame) -> None:
    _lines(axes, select(frame, "open_loop/error"), "error of an elite", MODEL)
    _lines(axes, select(frame, "open_loop/spread"), "spread of the elites", SPREAD)
    no_change = select(frame, "open_loop/no_change")
    _lines(axes, no_change, "error of predicting no change", YARDSTICK, linestyle="--")
    axes.axhline(1.0, color=YARDSTICK, linestyle=":", label="error of a constant guess")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Open-loop error\ngood: far below the grey lines")
    axes.set_xlabel("real actions replayed")
    axes.set_ylabel("RMS, in std of the real observations")


def _draw_dimensions(axes: Axes, frame: pd.DataFrame) -> None:
    steps = select(frame, "open_loop/error").index
    names = dimensions(frame, "open_loop/error")
    places = np.arange(len(names))
    if len(steps):
        last = steps[-1]
        for where, label, color, marker in (
            (last, f"error, {counted(last, 'step')}", MODEL, "o"),
            (steps[0], f"error, {counted(steps[0], 'step')}", "C9", "o"),
        ):
            _dots(axes, frame, "open_loop/error", where, names, label, color, marker)
        label = f"spread, {counted(last, 'step')}"
        _dots(axes, frame, "open_loop/spread", last, names, label, SPREAD, "_")
    axes.axhline(1.0, color=YARDSTICK, linestyle=":")
    axes.set_yscale("log")
    if len(names) <= MOST_TICKS:
        axes.set_xticks(places, ["r" if name == REWARD else name for name in names], fontsize=8)
    axes.set_title("Open-loop error by dimension\ngood: low and even")
    axes.set_xlabel("dimension of the observation (r: reward)")
    axes.set_ylabel("RMS, in std of the dimension")


def _dots(
    axes: Axes,
    frame: pd.DataFrame,
    quantity: str,
    where: float,
    names: list[str],
    label: str,
    color: str,
    marker: str,
) -> None:
    """Marks the mean over seeds of every dimension, and the range of the seeds."""
    values = [at(frame, quantity, where, name) for name in names]
    shown = [(x, v) for x, v in enumerate(values) if len(v) and v.mean() > 0]
    if not shown:
        return
    x = np.array([place for place, _ in shown])
    size = {"markersize": 11, "markeredgewidth": 2.5} if marker == "_" else {"markersize": 5}
    axes.vlines(x, [v.min() for _, v in shown], [v.max() for _, v in shown], color=color, alpha=0.5)
    axes.plot(x, [v.mean() for _, v in shown], marker, color=color, label=label, **size)


def _draw_likelihood(axes: Axes, frame: pd.DataFrame) -> None:
    bars = {
        "single\nelites": ("nll/elites", MODEL),
        "mixture of\nthe elites": ("nll/mixture", MODEL),
        "constant\nGaussian": ("nll/constant", YARDSTICK),
    }
    names = list(bars)
    for x, (quantity, color) in enumerate(bars.values()):
        values = only(frame, quantity)
        if values.empty:
            continue
        mean = values.mean()
        axes.bar(x, mean, width=0.6, color=color, alpha=0.75)
        if len(values) > 1:
            axes.plot(np.full(len(values), x), values, "o", color="k", markersize=3)
        names[x] += f"\n{number(mean)}"
    axes.axhline(0.0, color="k", linewidth=0.8)
    axes.set_xticks(range(len(bars)), names)
    axes.set_title("Negative log-likelihood, one step\ngood: far below the constant Gaussian")
    axes.set_ylabel("nats per dimension")


def _draw_calibration(axes: Axes, frame: pd.DataFrame) -> None:
    levels = np.linspace(0.0, 1.0, 101)[1:-1]
    axes.plot([0, 1], [0, 1], color=YARDSTICK, linestyle="--", label="calibrated")
    twice = 2 * ndtr(ndtri(0.5 + levels / 2) / 2) - 1
    axes.plot(levels, twice, color=YARDSTICK, linestyle=":", label="over-confident by 2")
    factor = only(frame, "calibration/overconfidence")
    label = f"model (RMS error / std: {number(factor.mean())})" if len(factor) else "model"
    _lines(axes, select(frame, "calibration/coverage"), label, MODEL)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title("Calibration of the variance, one step\ngood: on the dashed diagonal")
    axes.set_xlabel("predicted probability of the central interval")
    axes.set_ylabel("share of targets inside it")


def _draw_disagreement(axes: Axes, frame: pd.DataFrame) -> None:
    for kind, color in (("one_step", "C9"), ("open_loop", MODEL)):
        correlation = select(frame, f"disagreement/{kind}_spearman")
        if correlation.empty:
            continue
        steps = counted(correlation.index.max(), "step")
        label = f"{steps}, rank correlation {np.nanmean(correlation.to_numpy()):.2f}"
        table = select(frame, f"disagreement/{kind}_error")
        _lines(axes, table, label, color, marker="o", markersize=4)
    axes.set_yscale("log")
    axes.set_xticks([1, 5, 10], ["least\n10 %", "", "most\n10 %"])
    axes.set_title("Does disagreement tell the error?\ngood: steeply rising")
    axes.set_xlabel("tenths of the predictions, by disagreement")
    axes.set_ylabel("RMS error of the elites' mean, in std")


def _draw_value(axes: Axes, frame: pd.DataFrame) -> None:
    axes.set_title("Value estimate against Monte-Carlo returns\ngood: RMSE low, bias 0")
    axes.set_xlabel("model steps before the critic (0: the critic alone)")
    axes.set_ylabel("discounted soft return")
    if select(frame, "value/rmse").empty:
        _say(axes, "no return can be compared:\nepisodes are cut too early")
        return
    _lines(axes, select(frame, "value/rmse"), "RMSE", MODEL)
    _lines(axes, select(frame, "value/bias"), "bias (estimate minus return)", "C3")
    spread = only(frame, "value/return_std").mean()
    label = "RMSE of a constant guess"
    axes.axhline(spread, color=YARDSTICK, linestyle=":", label=label)
    axes.axhline(0.0, color="k", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_terminations(axes: Axes, frame: pd.DataFrame) -> None:
    places = []
    for x, kind in enumerate(("one_step", "open_loop")):
        steps, hits, false_alarms, missed = termination_counts(frame, kind)
        when = "next step" if kind == "one_step" else f"within {counted(steps, 'step')}"
        places.append(f"{when}\n{hits + missed:,.0f} real, {hits + false_alarms:,.0f} predicted")
        for shift, name, color, without in (
            (-0.2, "precision", "C2", "none\npredicted"),
            (0.2, "recall", "C4", "none\nreal"),
        ):
            values = only(frame, f"termination/{kind}_{name}")
            label = name if kind == "one_step" else None
            mean = values.mean() if len(values) else 0.0
            axes.bar(x + shift, mean, width=0.36, color=color, alpha=0.6, label=label)
            text = f"{mean:.2f}" if len(values) else without
            axes.text(x + shift, 0.02, text, ha="center", fontsize=10)
            if len(values) > 1:
                axes.plot(np.full(len(values), x + shift), values, "o", color="k", markersize=3)
    axes.set_xticks(range(len(places)), places)
    axes.set_ylim(0, 1.25)  # room for the legend
    axes.set_title("Predicted terminations\ngood: precision and recall 1")


def _draw_returns(axes: Axes, frame: pd.DataFrame) -> None:
    for side, color, style in (("environment", REAL, "-"), ("model", MODEL, "--")):
        table = select(frame, f"return/{side}")
        _lines(axes, table, side, color, linestyle=style)
        width = pooled_half_width(select(frame, f"return/{side}_half_width"))
        mean = table.mean(axis=1, skipna=False).reindex(width.index)
        axes.fill_between(mean.index, mean - width, mean + width, color=color, alpha=0.2, lw=0)
    real, model = (
        np.nan_to_num(select(frame, f"return/{side}").abs().to_numpy().max(initial=1.0), nan=1.0)
        for side in ("environment", "model")
    )
    if model > LARGEST_OVERSHOOT * real:
        axes.set_yscale("symlog", linthresh=real)
    axes.set_title("Return so far, from the same starts\ngood: the two agree")
    axes.set_xlabel("steps of the policy")
    axes.set_ylabel("sum of rewards")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=11)


PANELS: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
    "drift": _draw_drift,
    "dimensions": _draw_dimensions,
    "likelihood": _draw_likelihood,
    "calibration": _draw_calibration,
    "disagreement": _draw_disagreement,
    "value": _draw_value,
    "terminations": _draw_terminations,
    "returns": _draw_returns,
}
