"""What a comparison found, in sentences."""

import numpy as np
import pandas as pd

from analysis.comparison import MEASURES, Tables
from analysis.statistics import FEWEST_FOR_INTERVAL

_SAME_COST = 1.15  # ratio of wall-clock times below which nothing is said about it


def finding(tables: Tables, env: str) -> str:
    """Returns what was found on one environment, as Markdown.

    A sentence on who is best and by how much, then how sure that is, whether the whole run says
    the same, and what it costs.
    """
    summary, pairs = tables["summary"], tables["improvement"]
    ranked = summary[summary["env"] == env].sort_values(["final_mean", "seeds"], ascending=False)
    pairs = pairs[pairs["env"] == env]
    best, others = ranked.iloc[0], ranked.iloc[1:]
    step = f"{ranked['step'].max():,} environment steps per seed"
    if others.empty:
        return (
            f"**{env}**: after {step}, **{best.group}** reaches a final return of "
            f"{scored(best, 'final', bold=True)}, from {number(best.first_mean)} at the first "
            f"evaluation, in {_minutes(best)}. {brackets(ranked['seeds'])} There is no other group "
            "to compare it with."
        )
    points = [_certainty(best, others, pairs), _whole_run(ranked, pairs), _cost(best, others)]
    bullets = "\n".join(f"- {point}" for point in points)
    return f"{_lead(env, step, ranked)}\n\n{bullets}"


def scored(row: pd.Series, measure: str, *, statistic: str = "mean", bold: bool = False) -> str:
    """Returns an estimate and its spread: `434 (136 to 677)`, of two seeds `434 [136 to 677]`."""
    value = number(row[f"{measure}_{statistic}"])
    value = f"**{value}**" if bold else value
    if row.seeds == 1:
        return value
    if row.seeds < FEWEST_FOR_INTERVAL:
        return f"{value} [{number(row[f'{measure}_min'])} to {number(row[f'{measure}_max'])}]"
    low, high = row[f"{measure}_{statistic}_low"], row[f"{measure}_{statistic}_high"]
    return f"{value} ({number(low)} to {number(high)})"


def brackets(seeds: pd.Series) -> str:
    """Returns a sentence on what the brackets of `scored` are, for groups of so many seeds."""
    intervals = seeds.max() >= FEWEST_FOR_INTERVAL
    ranges = ((seeds > 1) & (seeds < FEWEST_FOR_INTERVAL)).any()
    if intervals and ranges:
        return (
            "In round brackets 95 % intervals, in square ones the range of seeds that are too few "
            "for an interval."
        )
    if intervals:
        return "In brackets 95 % intervals."
    if ranges:
        return "In brackets the range of the seeds, which are too few for an interval."
    return "One seed says nothing about the spread between seeds."


def number(value: float) -> str:
    """Returns a return with about four digits, e.g. `1,234`, `56.7`, `0.123`."""
    if not np.isfinite(value):
        return "\N{EN DASH}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _lead(env: str, step: str, ranked: pd.DataFrame) -> str:
    best = ranked.iloc[0]
    tied = ranked[ranked["final_mean"] == best.final_mean]
    seeds = brackets(ranked["seeds"])
    if len(tied) > 1:
        names = _and([f"**{name}**" for name in tied["group"]])
        return (
            f"**{env}**: after {step}, {names} share the highest final return, "
            f"{scored(best, 'final', bold=True)}. {seeds}"
        )
    second = ranked.iloc[1]
    return (
        f"**{env}**: after {step}, **{best.group}** has the highest final return, "
        f"{scored(best, 'final', bold=True)}: {number(best.final_mean - second.final_mean)} more "
        f"than {second.group}, {scored(second, 'final')}. {seeds}"
    )


def _certainty(best: pd.Series, others: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Says over which groups the seeds establish that the best one is better."""
    sure, unsure, too_few = [], [], []
    for _, other in others.iterrows():
        pair = _pair(pairs, best.group, other.group, "final")
        text = f"{other.group} ({pair.probability:.2f}, {pair.low:.2f} to {pair.high:.2f})"
        if np.isnan(pair.low):
            too_few.append(other.group)
        elif _established(best, other, pair, "final"):
            sure.append(text)
        else:
            unsure.append(text)
    if not sure + unsure:
        fewest = min(best.seeds, others["seeds"].min())
        return f"With {_seeds(fewest)} this ranking is no more than a first impression."
    claims = [f"establish that {best.group} beats {_and(sure)}"] if sure else []
    if unsure:
        subject = "it" if sure else best.group
        claims.append(f"do not establish that {subject} beats {_and(unsure)}")
    rest = f" Too few seeds to tell: {', '.join(too_few)}." if too_few else ""
    return (
        f"The seeds {' but '.join(claims)}; in brackets the probability of improvement and its "
        f"95 % interval.{rest}"
    )


def _established(better: pd.Series, worse: pd.Series, pair: pd.Series, measure: str) -> bool:
    """Whether the probability of improvement excludes 0.5, or the intervals of the means are apart.

    The second is stricter for most data, but complete separation of few seeds leaves the
    probability at 1, about whose interval they say little.
    """
    apart = better[f"{measure}_mean_low"] > worse[f"{measure}_mean_high"]
    return bool(pair.low > 0.5 or apart)


def _pair(pairs: pd.DataFrame, group: str, other: str, measure: str) -> pd.Series:
    """Returns the probability of improvement of `group` over `other`, whichever is stored."""
    rows = pairs[pairs["measure"] == measure]
    forward = rows[(rows["group"] == group) & (rows["other"] == other)]
    if len(forward):
        return forward.iloc[0]
    row = rows[(rows["group"] == other) & (rows["other"] == group)].iloc[0].copy()
    row["probability"], row["low"], row["high"] = 1 - row.probability, 1 - row.high, 1 - row.low
    return row


def _whole_run(ranked: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Says who is best by the mean return over the run."""
    by_area = ranked.sort_values("area_mean", ascending=False)
    best, others = by_area.iloc[0], by_area.iloc[1:]
    sure = [
        other.group
        for _, other in others.iterrows()
        if _established(best, other, _pair(pairs, best.group, other.group, "area"), "area")
    ]
    known = f", established over {_and(sure)}" if sure else ""
    if not sure and ranked["seeds"].min() >= FEWEST_FOR_INTERVAL:
        known = ", which the seeds do not establish over any other"
    also = "also " if best.group == ranked.iloc[0].group else ""
    return (
        f"By the {MEASURES['area']}, {also}{best.group} is first with "
        f"{scored(best, 'area')}{known}."
    )


def _cost(best: pd.Series, others: pd.DataFrame) -> str:
    """Says how long the best group took, against the quickest of the others."""
    quickest = others.loc[others["minutes_per_run"].idxmin()]
    text = f"{best.group} took {_minutes(best)}"
    ratio = best.minutes_per_run / quickest.minutes_per_run
    per_run = {best.seeds / best.runs, quickest.seeds / quickest.runs}
    if len(per_run) > 1 or best.hardware != quickest.hardware:
        return (
            f"{text}, {quickest.group} {_minutes(quickest)}: not comparable, as their runs share "
            "a machine among different numbers of seeds or are on different hardware."
        )
    if 1 / _SAME_COST < ratio < _SAME_COST:
        return f"{text}, about as long as {quickest.group}."
    times = f"{max(ratio, 1 / ratio):.1f} times as {'long' if ratio > 1 else 'fast'} as"
    return f"{text}, {times} {quickest.group} ({_minutes(quickest)})."


def _minutes(row: pd.Series) -> str:
    each = row.seeds / row.runs
    return f"{row.minutes_per_run:.3g} min per run" + (
        f" of {_seeds(each)}" if each % 1 == 0 else ""
    )


def _seeds(count: float) -> str:
    return "one seed" if count == 1 else f"{count:.0f} seeds"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
