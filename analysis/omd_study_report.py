"""The report on the CartPole study of optimal model design, from its CSV files alone."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import omd_study, omd_study_figures
from analysis.omd_study import (
    AXES,
    LAST,
    PUBLISHED_MSE,
    PUBLISHED_STEPS,
    UNTRAINED_MSE,
    WIDTH,
    Axis,
    Pair,
)
from analysis.rendering import markdown_table
from analysis.statistics import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_INTERVAL
from analysis.wording import UNKNOWN, counted, joined, number, time_taken
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.run_folder import REPORT_FILE

FILES = (
    omd_study.POINTS_FILE,
    omd_study.CURVES_FILE,
    REPORT_FILE,
    omd_study_figures.RETURNS_FIGURE,
    omd_study_figures.ERRORS_FIGURE,
    omd_study_figures.CURVES_FIGURE,
)
FALSELY_ESTABLISHED = 0.03  # of comparisons of equal methods, ten seeds each: docs/statistics.md
LARGEST_Q = 100.0  # 1 / (1 - discount): what an endless episode is worth


def write_report(folder: Path) -> None:
    """Draws the figures and writes `report.md` from the two CSV files in a folder.

    Raises:
      UserError: a CSV file is missing or damaged, or the disk is full or not writable.
    """
    tables = omd_study.read(folder)
    omd_study_figures.draw(tables, folder)
    with disk_problems_as_user_errors(folder, "The report"):
        write_text_atomically(folder / REPORT_FILE, report(tables.points))


def report(points: pd.DataFrame) -> str:
    """Returns the report as Markdown: what is established, then the numbers."""
    compared = {axis: omd_study.pairs(points, axis) for axis in AXES}
    found = [axis for axis in AXES if len(axis.of(points))]
    sections = [
        "# Optimal model design on CartPole",
        _setting(points),
        *(finding(compared[axis], axis) for axis in found if compared[axis]),
        _model_error_finding(points),
        _large_q(points),
        _rule(sum(map(len, compared.values()))),
        _figure("Final returns", omd_study_figures.RETURNS_FIGURE),
        f"*Lines: means of our seeds with 95 % Student-t intervals, from {FEWEST_FOR_INTERVAL} "
        f"seeds on. Diamonds: published means after {PUBLISHED_STEPS:,} steps.*",
        *(_returns(points, compared[axis], axis) for axis in found),
        _model_errors(points),
        "## Learning curves\n\n" + _figure("Learning curves", omd_study_figures.CURVES_FIGURE),
        _again(points),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def finding(compared: list[Pair], axis: Axis) -> str:
    """Returns which orderings over one axis are established, and which are the published ones.

    Args:
      compared: what `omd_study.pairs` returns for the axis.
      axis: what was varied.
    """
    lines = [f"**{axis.title}**"]
    theirs = omd_study.published_returns(axis)
    for names in dict.fromkeys((pair.algo, pair.other) for pair in compared):
        same = [pair for pair in compared if (pair.algo, pair.other) == names]
        few = [pair.level for pair in same if np.isnan(pair.estimate.low)]
        open_ = [pair.level for pair in same if pair.better is None and pair.level not in few]
        claims = [
            f"{name} is better {_at([p.level for p in same if p.better == name], axis)}"
            for name in names
            if any(pair.better == name for pair in same)
        ]
        claims += [f"not established {_at(open_, axis)}"] if open_ else []
        claims += [f"too few seeds {_at(few, axis)}"] if few else []
        text = f"- **{names[0]} against {names[1]}**: {'; '.join(claims)}."
        lines.append(text + _agreement(same, theirs, axis))
    return "\n".join([lines[0], "", *lines[1:]])


def _agreement(
    same: list[Pair], theirs: dict[tuple[str, int], tuple[float, float]], axis: Axis
) -> str:
    """Says how often the more probable winner is the one with the higher published mean."""
    signs = [
        (pair.estimate.value - 0.5)
        * (theirs[pair.algo, pair.level][0] - theirs[pair.other, pair.level][0])
        for pair in same
        if (pair.algo, pair.level) in theirs and (pair.other, pair.level) in theirs
    ]
    if not signs:
        return ""
    agree = sum(sign > 0 for sign in signs)
    places = counted(len(signs), axis.noun)
    return f" The more probable winner is the published one at {agree} of {places}."


def _setting(points: pd.DataFrame) -> str:
    runs = points.groupby(["algo", "width", "distractors"])["wall_clock"].max()
    seeds = joined(sorted({str(n) for n in points.groupby(runs.index.names).size()}, key=int))
    pace = points["steps"].sum() / runs.sum()
    text = (
        f"Soft Q-learning in a learned model after {points['steps'].max():,} environment steps, "
        f"{seeds} seeds per point; the published values are after {PUBLISHED_STEPS:,}. The final "
        f"return of a seed is the mean of its last {LAST} evaluations. "
        f"{counted(len(runs), 'run')} took {time_taken(runs.sum())} (h:mm:ss) one after the other, "
        f"{pace:,.0f} environment steps per second over all seeds of a run."
    )
    if ended_early := omd_study.cut_short(points):
        text += (
            " **A seed diverged, which ends the run of all, so that the values are those up to "
            f"there: {joined(ended_early)}.**"
        )
    if absent := omd_study.missing(points):
        text += f" **Not finished, so not in here: {joined(absent)}.**"
    return text


def _rule(comparisons: int) -> str:
    if not comparisons:
        return ""
    return (
        "Better means established by the rule of all comparisons in this repository: the 95 % "
        "bootstrap interval of the probability that a run of the one beats a run of the other is "
        f"clear of 0.5, from {FEWEST_FOR_BOOTSTRAP} seeds on. Every comparison stands alone: with "
        f"ten seeds the rule takes equal methods for different in up to {FALSELY_ESTABLISHED:.0%} "
        f"of cases (docs/statistics.md), so in {FALSELY_ESTABLISHED * comparisons:.1f} of the "
        f"{comparisons} made here. What is not established may still be so."
    )


def _returns(points: pd.DataFrame, compared: list[Pair], axis: Axis) -> str:
    """Returns the table of returns beside the published ones, and that of the comparisons."""
    algos, theirs = omd_study.algorithms(points), omd_study.published_returns(axis)
    rows = []
    for level in omd_study.levels(points, axis):
        row = [str(level)]
        for algo in algos:
            row.append(_mean(omd_study.seeds_of(points, axis, algo, level, "final_return")))
            mean, spread = theirs.get((algo, level), (np.nan, np.nan))
            row.append(UNKNOWN if np.isnan(mean) else f"{number(mean)} ± {number(spread)}")
        rows.append(row)
    header = [axis.noun, *(text for algo in algos for text in (algo, f"{algo}, published"))]
    text = (
        "Mean over seeds with the half-width of its 95 % Student-t interval, or the range of two "
        f"seeds. {axis.source}"
    )
    names = list(dict.fromkeys((pair.algo, pair.other) for pair in compared))
    cells = {(pair.algo, pair.other, pair.level): _probability(pair) for pair in compared}
    probabilities = [
        [str(level), *(cells.get((*pair, level), UNKNOWN) for pair in names)]
        for level in omd_study.levels(points, axis)
    ]
    sections = [f"## {axis.title}", text, markdown_table(header, rows)]
    if names:
        beats = [f"{algo} over {other}" for algo, other in names]
        sections += [
            "Probability of improvement with its 95 % interval; bold is established:",
            markdown_table([axis.noun, *beats], probabilities),
        ]
    return "\n\n".join(sections)


def _model_errors(points: pd.DataFrame) -> str:
    """Returns the table of next-state errors beside table 1 of the paper."""
    rows = []
    for level in omd_study.levels(points, WIDTH):
        row = [str(level)]
        for algo in omd_study.algorithms(points):
            row.append(_geometric(_errors(points, algo, level)))
            row.append(number(PUBLISHED_MSE.get(algo, {}).get(level, np.nan)))
        rows.append(row)
    if not rows:
        return ""
    algos = omd_study.algorithms(points)
    header = [WIDTH.noun, *(text for algo in algos for text in (algo, f"{algo}, published"))]
    text = (
        "Squared error of the predicted next state, summed over its dimensions, in the training "
        f"batches of the last {LAST} epochs: geometric mean over seeds, as single ones are larger "
        "by orders of magnitude, with its 95 % interval (Student's t of the logarithms). Published "
        f"is table 1 of the paper; {UNTRAINED_MSE} is its value for an untrained model. With "
        "distractors the error of what cannot be predicted is part of the sum, so that those runs "
        "are left out."
    )
    figure = _figure("Error of the model", omd_study_figures.ERRORS_FIGURE)
    return "\n\n".join(["## Error of the model", figure, text, markdown_table(header, rows)])


def _model_error_finding(points: pd.DataFrame) -> str:
    """Says at which widths a model predicts worse than an untrained one."""
    above: dict[str, list[int]] = {}
    for algo in omd_study.algorithms(WIDTH.of(points)):
        for level in omd_study.levels(points, WIDTH):
            errors = _errors(points, algo, level)
            if len(errors) and omd_study.log_interval(errors)[1] > UNTRAINED_MSE:
                above.setdefault(algo, []).append(level)
    if not above:
        return ""
    places = joined([f"{algo} {_at(found, WIDTH)}" for algo, found in above.items()])
    return (
        f"**Model error**: the next states predicted by {places} are worse than those of an "
        f"untrained model (squared error {UNTRAINED_MSE}, as published), with the whole interval."
    )


def _large_q(points: pd.DataFrame) -> str:
    """Says how many runs value their states higher than any policy can be worth."""
    counts = [
        f"{(rows['q'] > LARGEST_Q).sum()} of {len(rows)} of {algo}"
        for algo, rows in points.groupby("algo", sort=False)
    ]
    return (
        f"**Values**: the mean Q of the last {LAST} epochs is above {LARGEST_Q:.0f}, more than any "
        f"policy is worth (1 / (1 - 0.99)), in {joined(counts)} runs."
    )


def _again(points: pd.DataFrame) -> str:
    flags = {
        "steps": [points["steps"].max()],
        "seeds": [points.groupby(["algo", "width", "distractors"]).size().max()],
        "algos": omd_study.algorithms(points),
        "widths": omd_study.levels(points, AXES[0]),
        "distractors": omd_study.levels(points, AXES[1]),
    }
    text = " ".join(f"--{name}={_comma_separated(values)}" for name, values in flags.items())
    return f"## Again\n\n```\npython benchmarks/omd_study.py {text}\n```"


def _comma_separated(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _errors(points: pd.DataFrame, algo: str, level: int) -> np.ndarray:
    return omd_study.seeds_of(points, WIDTH, algo, level, "next_state_mse")


def _at(levels: list[int], axis: Axis) -> str:
    return f"at {axis.noun}{'s' * (len(levels) > 1)} {joined([str(level) for level in levels])}"


def _mean(values: np.ndarray) -> str:
    """Returns `218 ± 60`, of two seeds `150 to 280`."""
    if not len(values):
        return UNKNOWN
    half = omd_study.interval(values)
    if np.isfinite(half):
        return f"{number(values.mean())} ± {number(half)}"
    if len(values) == 1:
        return number(values[0])
    return f"{number(values.min())} to {number(values.max())}"


def _geometric(values: np.ndarray) -> str:
    if not len(values):
        return UNKNOWN
    mean, low, high = omd_study.log_interval(values)
    if np.isfinite(low):
        return f"{number(mean)} ({number(low)} to {number(high)})"
    return number(mean)


def _probability(pair: Pair) -> str:
    value, low, high = pair.estimate
    if np.isnan(low):
        return f"{value:.2f}"
    text = f"{value:.2f} ({low:.2f} to {high:.2f})"
    return f"**{text}**" if pair.better else text


def _figure(title: str, file: str) -> str:
    return f"![{title}]({file})"
