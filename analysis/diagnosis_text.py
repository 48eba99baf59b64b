"""A diagnosis in words, from its table alone. The limits below are our choice."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.diagnosis_table import (
    at,
    has_model,
    only,
    pooled_half_width,
    select,
    termination_counts,
)
from analysis.wording import counted, number

CALIBRATED_WITHIN = 1.1  # factor between errors and predicted standard deviations
NOMINAL = 0.9  # interval that is quoted
STRONG, WEAK = 0.5, 0.2  # rank correlations that tell errors apart well, and at all
NEGLIGIBLE_BIAS = 0.05  # of the mean return, or of its standard deviation where that is larger
HELPFUL = 0.95  # of the critic's RMSE: what model steps have to get below to be said to help


def paragraph(frame: pd.DataFrame) -> str:
    """Returns what a diagnosis found, the model's usefulness first."""
    if not has_model(frame):
        return f"This algorithm has no dynamics model to diagnose. {_value(frame)}"
    parts = (_drift, _calibration, _disagreement, _terminations, _value, _returns)
    return " ".join(filter(None, (part(frame) for part in parts)))


def useful_steps(error: np.ndarray, no_change: np.ndarray) -> int:
    """Returns for how many steps an open-loop error [H] is below both guesses that need no model.

    Args:
      error: in standard deviations of the observations, so 1 is a constant guess.
      no_change: error of predicting the first state forever, same unit.
    """
    worse = ~(error < np.minimum(no_change, 1.0))
    return int(worse.argmax()) if worse.any() else len(error)


def _drift(frame: pd.DataFrame) -> str:
    error, no_change = (select(frame, f"open_loop/{n}").dropna() for n in ("error", "no_change"))
    if error.empty:
        return "The episodes are too short and too few for open-loop errors."
    steps = len(error)
    mean, guess = error.mean(axis=1), no_change.mean(axis=1)
    useful = useful_steps(mean.to_numpy(), guess.to_numpy())
    single = pd.Series([useful_steps(error[k].to_numpy(), no_change[k].to_numpy()) for k in error])
    good = f"good for {counted(useful, 'step')}"
    ending = ""
    if useful == steps:
        good = "good for every step tested"
    else:
        rival = "a constant guess" if guess.iloc[useful] > 1 else "predicting no change"
        ending = f", worse than {rival} from step {useful + 1} on"
        good = good if useful else "not good for a single step"
    spread = select(frame, "open_loop/spread").dropna().mean(axis=1) / mean
    growth = f"{number(mean.iloc[0])} standard deviations of the real observations after 1 step"
    beside = f"The elites' spread is {spread.iloc[0]:.0%} of that error after 1 step"
    if steps > 1:
        growth += f" and {number(mean.iloc[-1])} after {steps}"
        beside += f" and {spread.iloc[-1]:.0%} after {steps}"
    return (
        f"**The model is {good}**{_seeds(single)}: when real actions are replayed, the error "
        f"of an elite is {growth}{ending}. {beside}."
    )


def _calibration(frame: pd.DataFrame) -> str:
    factors = only(frame, "calibration/overconfidence")
    if factors.empty:
        return ""
    factor = factors.mean()
    coverage = select(frame, "calibration/coverage").mean(axis=1)
    share = float(np.interp(NOMINAL, coverage.index, coverage))
    outliers = ""
    if factor > CALIBRATED_WITHIN:
        judged = f"over-confident by a factor of {number(factor)}"
        outliers = ": a few very large errors cause it" if share > NOMINAL else ""
    elif factor < 1 / CALIBRATED_WITHIN:
        judged = f"under-confident by a factor of {number(1 / factor)}"
    else:
        judged = "calibrated"
    if factors.min() < 1 / CALIBRATED_WITHIN and factors.max() > CALIBRATED_WITHIN:
        judged += " on average, but not in every seed"
    gain = only(frame, "nll/constant").mean() - only(frame, "nll/mixture").mean()
    return (
        f"One step ahead it is **{judged}**: RMS errors are {number(factor)} predicted standard "
        f"deviations{_seeds(factors)}, and {share:.0%} of the targets lie in {NOMINAL:.0%} "
        f"intervals{outliers}. Targets are {number(abs(gain))} nats per dimension "
        f"{'more' if gain > 0 else '**less**'} likely under the elites' mixture than under a "
        "constant Gaussian."
    )


def _disagreement(frame: pd.DataFrame) -> str:
    tables = [select(frame, f"disagreement/{kind}_spearman") for kind in ("one_step", "open_loop")]
    found = {t.index[-1]: float(np.nanmean(t.to_numpy())) for t in tables if len(t)}
    if not found:
        few = select(frame, "disagreement/one_step_error").empty
        reason = "too few steps were played" if few else "one of them never changes"
        return f"Disagreement cannot be compared with the error: {reason}."
    lowest = min(found.values())
    if lowest >= STRONG:
        verdict = "can be trusted to rank predictions by their error"
    elif lowest >= WEAK:
        verdict = "is a weak sign of error"
    else:
        verdict = "cannot be trusted to tell where the model is wrong"
    numbers = " and ".join(f"{rho:.2f} after {counted(k, 'step')}" for k, rho in found.items())
    return f"Disagreement among the elites {verdict} (rank correlation {numbers})."


def _terminations(frame: pd.DataFrame) -> str:
    parts = []
    for kind in ("one_step", "open_loop"):
        steps, hits, false_alarms, missed = termination_counts(frame, kind)
        when = "one step ahead" if kind == "one_step" else f"within {counted(steps, 'step')}"
        foreseen = f"{number(hits)} of the {counted(round(hits + missed), 'termination')}"
        if hits + missed:
            alarms = "false alarm" if false_alarms == 1 else "false alarms"
            parts.append(f"{when} {foreseen}, with {number(false_alarms)} {alarms}")
        elif false_alarms:
            parts.append(f"{when} {number(false_alarms)} terminations where none occurred")
    if not parts:
        return "No termination occurred, and none was predicted."
    return f"An elite predicts {'; '.join(parts)}."


def _value(frame: pd.DataFrame) -> str:
    rmse = select(frame, "value/rmse").mean(axis=1)
    if rmse.empty and only(frame, "value/positions").sum():
        return "The value estimate cannot be compared with returns: no model rollout stays finite."
    if rmse.empty:
        return (
            "The value estimate cannot be compared with returns: time limits cut the episodes "
            "before the discount has made the rest small."
        )
    bias = at(frame, "value/bias", 0)
    mean, spread = (only(frame, f"value/return_{n}").mean() for n in ("mean", "std"))
    text = (
        f"The critic **{_judged_bias(bias.mean(), mean, spread)}**: a bias of "
        f"{_signed(bias.mean())}{_seeds(bias, _signed)} where returns average {number(mean)}, and "
        f"an RMSE of {number(rmse.loc[0])}, a constant guess having {number(spread)}."
    )
    if len(rmse) == 1:
        return text
    best, last = int(rmse.idxmin()), int(rmse.index[-1])
    if rmse.loc[best] < HELPFUL * rmse.loc[0]:
        before = f"Putting {counted(best, 'step')} of the model before it"
        return f"{text} {before} lowers the RMSE to {number(rmse.loc[best])}."
    return (
        f"{text} Steps of the model before it do not help: {number(rmse.loc[last])} after {last}."
    )


def _judged_bias(bias: float, mean: float, spread: float) -> str:
    """Says how large the bias is beside the returns, which may average zero."""
    if abs(bias) <= NEGLIGIBLE_BIAS * max(abs(mean), spread):
        return "estimates the discounted soft return without notable bias"
    if abs(mean) > spread:
        size = f"{abs(bias / mean):.0%}"
    elif spread > 0:
        size = f"{abs(bias) / spread:.0%} of its standard deviation"
    else:
        size = number(abs(bias))
    return (
        f"{'overestimates' if bias > 0 else 'underestimates'} the discounted soft return by {size}"
    )


def _returns(frame: pd.DataFrame) -> str:
    diverged, rollouts = (only(frame, f"return/{n}").sum() for n in ("diverged", "rollouts"))
    lost = f"{diverged:.0f} of {rollouts:.0f} model rollouts left the numbers and do not count."
    lost = f" {lost}" if diverged else ""
    gap = select(frame, "return/gap").dropna()
    if gap.empty:
        return f"No return in the model can be compared with the environment's.{lost}"
    last = gap.index[-1]
    model, real = (at(frame, f"return/{side}", last).mean() for side in ("model", "environment"))
    width = pooled_half_width(select(frame, "return/gap_half_width")).get(last, np.nan)
    difference = _signed(model - real)
    if np.isnan(width):
        verdict = f"a difference of {difference}, from too few episodes for an interval"
    elif abs(model - real) <= width:
        verdict = f"no difference these episodes can show ({difference} ± {number(width)})"
    else:
        relative = f", {abs(model - real) / abs(real):.0%}" if real else ""
        judged = "too much" if model > real else "too little"
        verdict = f"**{judged}** ({difference} ± {number(width)}{relative})"
    return (
        f"From the same starts and over {counted(last, 'step')} the policy collects "
        f"{number(model)} in the model and {number(real)} in the environment: {verdict}.{lost}"
    )


def _seeds(values: pd.Series, show: Callable[[float], str] = number) -> str:
    """Returns the range over seeds in brackets, if there are several."""
    if len(values) < 2 or values.min() == values.max():
        return ""
    return f" (seeds: {show(values.min())} to {show(values.max())})"


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + number(value)
