"""What a comparison found, in sentences."""

import numpy as np
import pandas as pd

from analysis.comparison import ALL, MEASURES, Tables
from analysis.statistics import FEWEST_FOR_BOOTSTRAP
from analysis.wording import counted, joined, number, time_taken

_SAME_COST = 1.15  # ratio of wall-clock times below which nothing is said about it
_UNIT = " (h:mm:ss)"
_PROBABILITY = "in brackets the probability of improvement and its 95 % interval"


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
        cost = f", in {_time(best, _UNIT)}" if _is_timed(best) else ""
        return (
            f"**{env}**: after {step}, **{best.group}** reaches a final return of "
            f"{scored(best, 'final', bold=True)}, from {number(best.first_mean)} at the first "
            f"evaluation{cost}. {brackets(ranked['seeds'])} There is no other group to compare it "
            "with."
        )
    certainty = _certainty(best.group, list(others["group"]), pairs, ranked["seeds"].min())
    points = [certainty, _whole_run(ranked, pairs), _cost(best, others)]
    bullets = "\n".join(f"- {point}" for point in points if point)
    return f"{_lead(env, step, ranked)}\n\n{bullets}"


def everywhere(tables: Tables) -> str:
    """Returns what was found over all environments; "" unless several have the same groups."""
    pairs = tables["improvement"]
    pairs = pairs[pairs["env"] == ALL]
    if pairs.empty:
        return ""
    groups = list(dict.fromkeys([*pairs["group"], *pairs["other"]]))
    wins = {
        group: sum(_pair(pairs, group, o, "final").probability for o in groups if o != group)
        for group in groups
    }
    best, *others = sorted(groups, key=lambda group: -wins[group])
    certainty = _certainty(best, others, pairs, tables["summary"]["seeds"].min())
    count = tables["summary"]["env"].nunique()
    return (
        f"**All {count} environments**: by the final return, each environment counting alike, "
        f"**{best}** is first. {certainty}"
    )


def scored(row: pd.Series, measure: str, *, statistic: str = "mean", bold: bool = False) -> str:
    """Returns an estimate and its spread: `434 (136 to 677)`, of two seeds `434 [136 to 677]`."""
    value = number(row[f"{measure}_{statistic}"])
    value = f"**{value}**" if bold else value
    if row.seeds == 1:
        return value
    if row.seeds < FEWEST_FOR_BOOTSTRAP:
        return f"{value} [{number(row[f'{measure}_min'])} to {number(row[f'{measure}_max'])}]"
    low, high = row[f"{measure}_{statistic}_low"], row[f"{measure}_{statistic}_high"]
    return f"{value} ({number(low)} to {number(high)})"


def brackets(seeds: pd.Series) -> str:
    """Returns a sentence on what the brackets of `scored` are, for groups of so many seeds."""
    intervals = seeds.max() >= FEWEST_FOR_BOOTSTRAP
    ranges = ((seeds > 1) & (seeds < FEWEST_FOR_BOOTSTRAP)).any()
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


def _lead(env: str, step: str, ranked: pd.DataFrame) -> str:
    best = ranked.iloc[0]
    tied = ranked[ranked["final_mean"] == best.final_mean]
    seeds = brackets(ranked["seeds"])
    if len(tied) > 1:
        names = joined([f"**{name}**" for name in tied["group"]])
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


def _certainty(best: str, others: list[str], pairs: pd.DataFrame, fewest: int) -> str:
    """Says over which groups the seeds establish that the best one is better.

    Args:
      best: a group.
      others: the others.
      pairs: their probabilities of improvement.
      fewest: seeds in the smallest group.
    """
    sure: list[str] = []
    unsure: list[str] = []
    too_few: list[str] = []
    for other in others:
        pair = _pair(pairs, best, other, "final")
        text = f"{other} ({pair.probability:.2f}, {pair.low:.2f} to {pair.high:.2f})"
        if np.isnan(pair.low):
            too_few.append(other)
        else:
            (sure if _established(pair) else unsure).append(text)
    if not sure + unsure:
        return (
            f"With {counted(fewest, 'seed')} there are too few to establish anything: that takes "
            f"{FEWEST_FOR_BOOTSTRAP} in each group."
        )
    claims = [f"establish that {best} beats {joined(sure)}"] if sure else []
    if unsure:
        claims.append(f"do not establish that {'it' if sure else best} beats {joined(unsure)}")
    rest = f" Too few seeds to establish anything about {joined(too_few)}." if too_few else ""
    return f"The seeds {' but '.join(claims)}; {_PROBABILITY}.{rest}"


def _established(pair: pd.Series) -> bool:
    """Whether the interval of the probability of improvement excludes 0.5; unknown does not."""
    return bool(pair.low > 0.5)


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
        if _established(_pair(pairs, best.group, other.group, "area"))
    ]
    known = f", established over {joined(sure)}" if sure else ""
    if not sure and ranked["seeds"].min() >= FEWEST_FOR_BOOTSTRAP:
        known = ", which the seeds do not establish over any other"
    also = "also " if best.group == ranked.iloc[0].group else ""
    return (
        f"By the {MEASURES['area']}, {also}{best.group} is first with "
        f"{scored(best, 'area')}{known}."
    )


def _cost(best: pd.Series, others: pd.DataFrame) -> str:
    """Says how long the best group took, against the quickest of the others, if that is known."""
    timed = [row for _, row in others.iterrows() if _is_timed(row)]
    if not (timed and _is_timed(best)):
        return ""
    quickest = min(timed, key=lambda row: row.minutes_per_run)
    text = f"{best.group} took {_time(best, _UNIT)}"
    ratio = best.minutes_per_run / quickest.minutes_per_run
    per_run = {best.seeds / best.runs, quickest.seeds / quickest.runs}
    if len(per_run) > 1 or best.hardware != quickest.hardware:
        return (
            f"{text}, {quickest.group} {_time(quickest)}: not comparable, as their runs share a "
            "machine among different numbers of seeds or are on different hardware."
        )
    if 1 / _SAME_COST < ratio < _SAME_COST:
        return f"{text}, about as long as {quickest.group}."
    times = f"{max(ratio, 1 / ratio):.1f} times as {'long' if ratio > 1 else 'fast'} as"
    return f"{text}, {times} {quickest.group} ({_time(quickest)})."


def _is_timed(row: pd.Series) -> bool:
    return bool(np.isfinite(row.minutes_per_run) and row.minutes_per_run > 0)


def _time(row: pd.Series, unit: str = "") -> str:
    each = row.seeds / row.runs
    of = f" of {counted(each, 'seed')}" if each % 1 == 0 else ""
    return f"{time_taken(60 * row.minutes_per_run)}{unit} per run{of}"
