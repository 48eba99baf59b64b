"""The report on several runs: finding, figures, tables, published values, notes."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import (
    comparison,
    comparison_figures,
    curve_figure,
    findings,
    grouping,
    published,
    published_curves,
    runs,
    statistics,
)
from analysis.comparison import MEASURES, Tables
from analysis.findings import brackets, scored
from analysis.rendering import markdown_table
from analysis.run_report import FINAL_EVALUATIONS
from analysis.statistics import FEWEST_FOR_BOOTSTRAP
from analysis.wording import UNKNOWN, number, time_taken
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.run_folder import REPORT_FILE

THRESHOLD_RULE = (
    f"{comparison.THRESHOLD_SHARE:.0%} of the way from the worst first evaluation to the best "
    "final return, rounded"
)
_INTERVALS = {
    "expanded": "percentile bootstrap, expanded for few seeds",
    "percentile": "percentile bootstrap, too narrow for few seeds",
}


def write_report(
    paths: Sequence[Path],
    out: Path,
    command: str,
    *,
    group_by: Sequence[str] = (),
    threshold: float | None = None,
    interval: str = "expanded",
) -> str:
    """Compares runs and writes tables, figures and `report.md`.

    Args:
      paths: run folders, or folders below which they are searched.
      out: folder to write to.
      command: what the user typed.
      group_by: fields to group by; those in which the runs differ when empty.
      threshold: return for "steps to threshold"; `None`: chosen for each environment.
      interval: a name in `statistics.METHODS`.

    Returns:
      The finding and the lines on what is wrong with some runs, as Markdown.

    Raises:
      UserError: there is no run with an evaluation, `group_by` names no field, or `out` cannot be
        written.
    """
    found, notes = runs.load(paths)
    groups, problems = grouping.group(found, group_by)
    tables, cut = comparison.compare(groups, threshold, interval)
    comparison.write(tables, out)
    tables = comparison.read(out)  # so that text and figures say what the files say
    comparison_figures.draw(out)
    notes += problems + cut
    envs = list(dict.fromkeys(tables["summary"]["env"]))
    found_on = [findings.finding(tables, env) for env in envs]
    finding = "\n\n".join(filter(None, [*found_on, findings.everywhere(tables)]))
    rule = "" if threshold is not None else f" ({THRESHOLD_RULE})"
    sections = [
        "# Comparison",
        finding,
        _figures(tables, interval),
        *(_table(tables, env, rule) for env in envs),
        published_curves.section(tables["published_curves"]),
        _published(tables),
        _notes(notes),
        _again(command, out),
    ]
    with disk_problems_as_user_errors(out, "The report"):
        write_text_atomically(out / REPORT_FILE, "\n\n".join(filter(None, sections)) + "\n")
    return "\n".join([finding, *(f"note: {note}" for note in notes)])


def _figures(tables: Tables, interval: str) -> str:
    curves = (
        "Return of the greedy policy against environment steps per seed, averaged over seeds "
        "(left) and without the lowest and highest quarter of them, rounded down (right). "
        f"{_bands(tables['summary']['seeds'], interval)}"
    )
    if len(curve_figure.drawn_references(tables)):
        curves += " Diamonds are published values with their spread, numbered as below."
    last, compared = (tables[name].groupby("env")["step"].max() for name in ("curves", "summary"))
    if (last > compared).any():
        curves += " Dotted lines: the step up to which groups are compared."
    scores = (
        f"Final return of a seed: mean of its last {FINAL_EVALUATIONS} evaluations up to the step "
        "in the title, of those that all groups have. Mean return over the run: the area under its "
        "curve divided by its length. Probability of improvement: that a run of the first group "
        "scores higher than one of the second. A difference counts as established where that "
        "interval is clear of 0.5. Lines are 95 % intervals; of fewer than "
        f"{FEWEST_FOR_BOOTSTRAP} seeds, the dotted ones are the range."
    )
    time = "Wall-clock minutes up to the same step, by stage."
    figures = [
        ("Learning curves", comparison_figures.CURVES_FILE, curves),
        ("Scores and probability of improvement", comparison_figures.SCORES_FILE, scores),
        ("Wall-clock time by stage", comparison_figures.TIME_FILE, time),
    ]
    return "\n\n".join(f"![{title}]({file})\n\n*{caption}*" for title, file, caption in figures)


def _bands(seeds: pd.Series, interval: str) -> str:
    """Returns the sentence on what the bands around curves of so many seeds are."""
    kinds = []
    if seeds.max() >= FEWEST_FOR_BOOTSTRAP:
        kinds.append(f"95 % interval over seeds ({_INTERVALS[interval]}, by {statistics.engine()})")
    if ((seeds > 1) & (seeds < FEWEST_FOR_BOOTSTRAP)).any():
        kinds.append(f"range of the seeds where there are fewer than {FEWEST_FOR_BOOTSTRAP}")
    return f"Bands: {'; '.join(kinds)}." if kinds else "One seed has no band."


def _table(tables: Tables, env: str, rule: str) -> str:
    summary = tables["summary"]
    ranked = summary[summary["env"] == env].sort_values("final_mean", ascending=False)
    header = [
        "group",
        "seeds",
        "final return, mean",
        "interquartile mean",
        f"{MEASURES['area']}, mean",
        f"steps to {number(ranked['threshold'].iloc[0])}",
        "time per run",
    ]
    rows = [
        [
            row.group,
            str(row.seeds),
            scored(row, "final"),
            scored(row, "final", statistic="iqm"),
            scored(row, "area"),
            f"{number(row.median_steps_to_threshold)} ({row.reached} of {row.seeds})",
            time_taken(60 * row.minutes_per_run),
        ]
        for _, row in ranked.iterrows()
    ]
    hardware = "; ".join(dict.fromkeys(ranked["hardware"]))
    return (
        f"## {env}\n\nAt step {ranked['step'].max():,}, which all groups have reached. "
        f"{brackets(ranked['seeds'])} Steps to a return of "
        f"{number(ranked['threshold'].iloc[0])}{rule}: the median over seeds and how many got "
        f"there. Times are h:mm:ss. Hardware: {hardware}.\n\n{markdown_table(header, rows)}"
    )


def _published(tables: Tables) -> str:
    rows = tables["published"]
    if rows.empty:
        return ""
    marks = curve_figure.drawn_references(tables)["mark"]
    header = ["environment", "mark", "algorithm", "step", "return", "seeds", "source"]
    cells = [
        [
            row.env,
            f"[{marks[index]}]" if index in marks else "",
            ", ".join(filter(None, [row.algo, row.variant])),
            "not stated" if pd.isna(row.step) else f"{row.step:,.0f}",
            number(row["mean"]) + _spread(row),
            UNKNOWN if pd.isna(row.seeds) else f"{row.seeds:.0f}",
            "; ".join(filter(None, [row.source, row.note])),
        ]
        for index, row in rows.iterrows()
    ]
    warnings = "\n".join(f"- **{warning}**" for warning in published.warnings(rows))
    table = markdown_table(header, cells)
    return "\n\n".join(filter(None, ["## Published values", warnings, table]))


def _spread(row: pd.Series) -> str:
    return "" if pd.isna(row.spread) else f" ± {number(row.spread)} ({row.spread_kind})"


def _notes(notes: list[str]) -> str:
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes) if notes else ""


def _again(command: str, out: Path) -> str:
    redraw = f"python report.py --redraw {shlex.quote(os.fspath(out))}"
    return (
        "## Again\n\nThe numbers are in the CSV files beside this page. Everything again, and the "
        f"figures alone, from those files:\n\n```\n{command}\n{redraw}\n```"
    )
