"""Figures and report of the study of CS285's homework 4, from its CSV files alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import cs285_study
from analysis.cs285_study import CHECKS, CLOCK, PANELS, Check, Panel
from analysis.curve_figure import grid_only
from analysis.rendering import markdown_table, save_figure
from analysis.wording import UNKNOWN, counted, joined, number, time_taken
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.run_folder import REPORT_FILE

FITS_FOLDER = "model_fits"
TIMES_FILE = "programs.csv"  # when every program that was run started and ended
FITS_FILE, LOSSES_FILE, PREDICTIONS_FILE = "fits.csv", "losses.csv", "predictions.csv"
RETURNS_FIGURE, LOSSES_FIGURE, PREDICTIONS_FIGURE = "returns.png", "losses.png", "predictions.png"
TABLES = (FITS_FILE, LOSSES_FILE, PREDICTIONS_FILE)
FILES = (
    cs285_study.RETURNS_FILE,
    TIMES_FILE,
    REPORT_FILE,
    RETURNS_FIGURE,
    LOSSES_FIGURE,
    PREDICTIONS_FIGURE,
    *(f"{FITS_FOLDER}/{name}" for name in TABLES),
)
LOSS_TOLERANCE = 0.15  # relative
_VERDICTS = {True: "holds", False: "**does not hold**", None: "not run"}
_COLUMNS = 3  # panels of the figure of returns side by side
_PREDICTED = (
    "cheetah, 1 x 32, 500 steps",
    "cheetah, 2 x 250, 5 steps",
    "cheetah, 2 x 250, 500 steps",
)
# Last loss and first step below 0.2 of an independent implementation (0.68: of a public solution),
# and the mean squared error of open-loop predictions over ten steps (mean over 100 sequences).
_PUBLISHED_FITS: dict[str, tuple[float, float, float]] = {
    "cheetah, 1 x 32, 500 steps, noise": (0.166, 217, 0.33),
    "cheetah, 1 x 32, 500 steps": (0.076, 143, 0.39),
    "cheetah, 2 x 250, 5 steps, noise": (0.68, np.nan, 1.80),
    "cheetah, 2 x 250, 5 steps": (np.nan, np.nan, 1.83),
    "cheetah, 2 x 250, 500 steps, noise": (0.122, 21, 0.10),
    "cheetah, 2 x 250, 500 steps": (0.039, 14, 0.082),
    "cheetah, 2 x 250, 1500 steps, noise": (0.0753, np.nan, np.nan),
    "cheetah, 2 x 250, 1500 steps": (0.0111, np.nan, np.nan),
    "reacher, 2 x 250, 1000 steps, noise": (0.154, 454, np.nan),
    "reacher, 2 x 250, 1000 steps": (0.028, np.nan, np.nan),
    "obstacles, 2 x 250, 20 steps, noise": (0.340, np.nan, np.nan),
    "obstacles, 2 x 250, 20 steps": (0.127, np.nan, np.nan),
}


def has_all_fits(folder: Path) -> bool:
    """Whether a folder has the tables of question 1, of all fits."""
    path = folder / FITS_FILE
    return path.exists() and set(_PUBLISHED_FITS) <= set(cs285_study.read(folder, FITS_FILE)["fit"])


def write_report(folder: Path, sizes: str, again: str) -> None:
    """Draws the figures and writes `report.md` from the tables that are in a folder.

    Args:
      folder: of the study.
      sizes: a sentence on how they compare with the homework's.
      again: the command that does it again.

    Raises:
      UserError: a table is missing or damaged, or the disk is full or not writable.
    """
    returns = cs285_study.read(folder)
    has_fits = (folder / FITS_FOLDER / FITS_FILE).exists()
    tables = [cs285_study.read(folder / FITS_FOLDER, name) for name in TABLES] if has_fits else []
    checks = [_check(returns, check) for check in CHECKS]
    checks += [_fit_check(row) for _, row in tables[0].iterrows()] if has_fits else []
    sections = [
        "# CS285, homework 4",
        _setting(folder),
        sizes,
        "## Expectations",
        "\n".join(checks),
    ]
    if has_fits:
        fits, losses, predictions = tables
        save_figure(loss_curves(losses), folder, LOSSES_FIGURE, "The figure of the losses")
        figure = prediction_curves(predictions)
        save_figure(figure, folder, PREDICTIONS_FIGURE, "The figure of the predictions")
        sections.append(_fits(fits))
    if panels := shown(returns):
        save_figure(curves(returns, panels), folder, RETURNS_FIGURE, "The figure of the returns")
        sections.append(f"## Questions 2 to 6\n\n![Returns]({RETURNS_FIGURE})")
        sections += [_table(returns, panel) for panel in panels]
    sections.append(f"## Again\n\n```\n{again}\n```")
    with disk_problems_as_user_errors(folder, "The report"):
        write_text_atomically(folder / REPORT_FILE, "\n\n".join(sections) + "\n")


def shown(returns: pd.DataFrame) -> list[Panel]:
    """Returns the panels at least one of whose runs is there."""
    found = set(returns["run"])
    return [panel for panel in PANELS if found & set(panel.runs)]


def curves(returns: pd.DataFrame, panels: list[Panel]) -> Figure:
    """Returns the return of every iteration, a panel per comparison."""
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid, panels):
        if panel.band:
            axes.axhspan(*panel.band, color="0.85", label="handout", zorder=0)
        for name, label in panel.runs.items():
            curve = cs285_study.by_iteration(returns, name)
            if len(curve):
                axes.plot(curve.index, curve, marker="o", markersize=4, linewidth=2, label=label)
        axes.set_title(f"Q{panel.question}. {panel.title}", fontsize=11)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        grid_only(axes)
        axes.legend(frameon=False, fontsize=8)
    figure.supylabel("return", fontsize=10)
    return figure


def loss_curves(losses: pd.DataFrame) -> Figure:
    """Returns the loss of every gradient step, a panel per environment."""
    losses = losses.assign(env=losses["fit"].str.split(",").str[0])
    names = list(dict.fromkeys(losses["env"]))
    figure = Figure(figsize=(4.4 * len(names), 3.8), dpi=110, layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names), squeeze=False)), names):
        for fit, curve in losses[losses["env"] == name].groupby("fit", sort=False):
            label = str(fit).removeprefix(f"{name}, ")
            style = ":" if label.endswith("noise") else "-"
            axes.plot(curve["step"], curve["loss"], style, linewidth=1.5, label=label)
        axes.set(title=name, xlabel="gradient step", xscale="log", yscale="log")
        grid_only(axes)
        axes.legend(frameon=False, fontsize=7)
    figure.supylabel("mean squared error, in standard deviations", fontsize=10)
    return figure


def prediction_curves(predictions: pd.DataFrame) -> Figure:
    """Returns one open-loop prediction of the fits of question 1, a panel per dimension."""
    dimensions = sorted(predictions["dimension"].unique())
    rows = -(-len(dimensions) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 1.7 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
    for axes, dimension in zip(grid, dimensions):
        of_dimension = predictions[predictions["dimension"] == dimension]
        for index, name in enumerate(_PREDICTED):
            curve = of_dimension[of_dimension["fit"] == name]
            label = name.removeprefix("cheetah, ")
            axes.plot(curve["step"], curve["predicted"], color=f"C{index}", label=label)
        axes.plot(curve["step"], curve["true"], color="black", linestyle="--", label="real")
        axes.set_ylabel(f"dimension {dimension}", fontsize=8)
        grid_only(axes)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _setting(folder: Path) -> str:
    times = cs285_study.read(folder, TIMES_FILE)
    return (
        f"{counted(times['part'].nunique(), 'part')} took {time_taken(covered(times))} (h:mm:ss), "
        "start of the programs and compilation included. Each run has a core to itself; its time "
        "below is its own, without the start. Iteration k is the k-th fit of the model, in "
        "question 6 the k-th 5,000 steps; its return is greedy, of episodes as long as the "
        "homework's, in question 4 also of the episodes collected with that model, in which the "
        "planner acts alike. Published are the handout's expectation (2022) and the range of "
        "public solutions of 2022 and 2023; those of questions 3 and 4 are means of the last five "
        "of up to 20 iterations."
    )


def covered(times: pd.DataFrame) -> float:
    """Returns for how many seconds at least one of the programs in a table of times ran."""
    total, until = 0.0, -np.inf
    for start, end in times.sort_values("start")[["start", "end"]].to_numpy():
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def _check(returns: pd.DataFrame, check: Check) -> str:
    found = cs285_study.verdict(returns, check)
    last = [cs285_study.by_iteration(returns, run) for run in check.runs]
    values = [number(curve.iloc[-1]) for curve in last if len(curve)]
    text = f" Last returns: {joined(values)}." if values else ""
    return f"- {_VERDICTS[found]}: {check.text}{text}"


def _fit_check(fit: pd.Series) -> str:
    """Says whether the last loss of a fit, a row of the table, is the published one."""
    name, loss = fit["fit"], fit["last_loss"]
    published = _PUBLISHED_FITS.get(name, (np.nan,))[0]
    if np.isnan(published):
        return f"- nothing published: last loss of {name}."
    close = abs(loss / published - 1) <= LOSS_TOLERANCE
    return (
        f"- {_VERDICTS[bool(close)]}: {name}: last loss within {LOSS_TOLERANCE:.0%} of "
        f"{number(published)}: {number(loss)}."
    )


def _fits(fits: pd.DataFrame) -> str:
    rows = []
    for fit in fits.itertuples(index=False):
        theirs = _PUBLISHED_FITS.get(fit.fit, (np.nan,) * 3)
        ours = (fit.last_loss, fit.first_learned, fit.mpe)
        rows.append([fit.fit, *(number(x) for pair in zip(ours, theirs) for x in pair)])
    header = ["fit"]
    for name in ("last loss", "first step below 0.2", "open-loop error"):
        header += [name, "published"]
    return "\n\n".join(
        [
            "## Question 1: the model alone",
            f"![Losses]({LOSSES_FIGURE})",
            "Three networks, the loss averaged over them; published are the values of an "
            "independent implementation. The open-loop error is the mean square in raw units over "
            "ten steps of the first network, averaged over 100 random action sequences.",
            markdown_table(header, rows),
            f"![Predictions]({PREDICTIONS_FIGURE})",
        ]
    )


def _table(returns: pd.DataFrame, panel: Panel) -> str:
    found = {name: cs285_study.by_iteration(returns, name) for name in panel.runs}
    last = max(len(curve) for curve in found.values())
    ends = sorted({1, 3, 5, 10, last} & set(range(1, last + 1)))
    rows = []
    for name, label in panel.runs.items():
        values = [number(found[name].get(k, np.nan)) for k in ends]
        seconds = returns.loc[returns["run"] == name, CLOCK].max()
        rows.append([label, *values, panel.expected.get(name, UNKNOWN), time_taken(seconds)])
    header = [panel.title, *(f"iteration {k}" for k in ends), "published", "time"]
    return f"### Question {panel.question}\n\n{markdown_table(header, rows)}"
