"""A diagnosis in words, from its table alone. The limits below are our choice."""

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

CALIBRATED_WITHIN = 1.1  # factor between errors and predicted standard deviations
NOMINAL = 0.9  # interval that is quoted
STRONG, WEAK = 0.5, 0.2  # rank correlations that tell errors apart well, and at all
NEGLIGIBLE_BIAS = 0.05  # of the mean return
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
    good = f"good for {_plural(useful)}"
    ending = ""
    if useful == steps:
        good = "good for every step tested"
    else:
        rival = "a constant guess" if guess.iloc[useful] > 1 else "predicting no change"
        ending = f", worse than {rival} from step {useful + 1} on"
        good = good if useful else "not good for a single step"
    spread = select(frame, "open_loop/spread").dropna().mean(axis=1) / mean
    growth = f"{mean.iloc[0]:.2g} standard deviations of the real observations after 1 step"
    beside = f"The elites' spread is {spread.iloc[0]:.0%} of that error after 1 step"
    if steps > 1:
        growth += f" and {mean.iloc[-1]:.2g} after {steps}"
        beside += f" and {spread.iloc[-1]:.0%} after {steps}"
    return (
        f"**The model is {good}**{_seeds(single, 'd')}: when real actions are replayed, the error "
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
        judged = f"over-confident by a factor of {factor:.2g}"
        outliers = ": a few very large errors cause it" if share > NOMINAL else ""
    elif factor < 1 / CALIBRATED_WITHIN:
        judged = f"under-confident by a factor of {1 / factor:.2g}"
    else:
        judged = "calibrated"
    if factors.min() < 1 / CALIBRATED_WITHIN and factors.max() > CALIBRATED_WITHIN:
        judged += " on average, but not in every seed"
    gain = only(frame, "nll/constant").mean() - only(frame, "nll/mixture").mean()
    return (
        f"One step ahead it is **{judged}**: RMS errors are {factor:.2g} predicted standard "
        f"deviations{_seeds(factors, '.2g')}, and {share:.0%} of the targets lie in {NOMINAL:.0%} "
        f"intervals{outliers}. Targets are {abs(gain):.2g} nats per dimension "
        f"{'more' if gain > 0 else '**less**'} likely under the elites' mixture than under a "
        "constant Gaussian."
    )


def _disagreement(frame: pd.DataFrame) -> str:
    tables = [select(frame, f"disagreement/{kind}_spearman") for kind in ("one_step", "open_loop")]
    found = {t.index[-1]: float(np.nanmean(t.to_numpy())) for t in tables if len(t)}
    if not found:
        return "Disagreement cannot be compared with the error: one of them never changes."
    lowest = min(found.values())
    if lowest >= STRONG:
        verdict = "can be trusted to rank predictions by their error"
    elif lowest >= WEAK:
        verdict = "is a weak sign of error"
    else:
        verdict = "cannot be trusted to tell where the model is wrong"
    numbers = " and ".join(f"{rho:.2f} after {_plural(int(k))}" for k, rho in found.items())
    return f"Disagreement among the elites {verdict} (rank correlation {numbers})."


def _terminations(frame: pd.DataFrame) -> str:
    parts = []
    for kind in ("one_step", "open_loop"):
        steps, hits, false_alarms, missed = termination_counts(frame, kind)
        when = "one step ahead" if kind == "one_step" else f"within {_plural(steps)}"
        foreseen = f"{hits:.3g} of the {hits + missed:.0f} terminations"
        if hits + missed:
            alarms = "false alarm" if false_alarms == 1 else "false alarms"
            parts.append(f"{when} {foreseen}, with {false_alarms:.3g} {alarms}")
        elif false_alarms:
            parts.append(f"{when} {false_alarms:.3g} terminations where none occurred")
    if not parts:
        return "No termination occurred, and none was predicted."
    return f"An elite predicts {'; '.join(parts)}."


def _value(frame: pd.DataFrame) -> str:
    rmse = select(frame, "value/rmse").mean(axis=1)
    if rmse.empty:
        return (
            "The value estimate cannot be compared with returns: time limits cut the episodes "
            "before the discount has made the rest small."
        )
    bias, mean = at(frame, "value/bias", 0), only(frame, "value/return_mean").mean()
    share = bias.mean() / max(abs(mean), np.finfo(float).tiny)
    verb = "overestimates" if bias.mean() > 0 else "underestimates"
    judged = f"{verb} the discounted soft return by {abs(share):.0%}"
    if abs(share) < NEGLIGIBLE_BIAS:
        judged = "estimates the discounted soft return without notable bias"
    spread = only(frame, "value/return_std").mean()
    text = (
        f"The critic **{judged}**: a bias of {bias.mean():+.3g}{_seeds(bias, '+.3g')} where "
        f"returns average {mean:.3g}, and an RMSE of {rmse.loc[0]:.3g}, a constant guess having "
        f"{spread:.3g}."
    )
    if len(rmse) == 1:
        return text
    best, last = int(rmse.idxmin()), int(rmse.index[-1])
    if rmse.loc[best] < HELPFUL * rmse.loc[0]:
        before = f"Putting {_plural(best)} of the model before it"
        return f"{text} {before} lowers the RMSE to {rmse.loc[best]:.3g}."
    return f"{text} Steps of the model before it do not help: {rmse.loc[last]:.3g} after {last}."


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
    difference = f"{model - real:+.3g}" + (f" ± {width:.2g}" if np.isfinite(width) else "")
    if abs(model - real) < width:
        verdict = f"no difference these episodes can show ({difference})"
    else:
        relative = f", {abs(model - real) / abs(real):.0%}" if real else ""
        verdict = f"**{'too much' if model > real else 'too little'}** ({difference}{relative})"
    return (
        f"From the same starts and over {_plural(int(last))} the policy collects {model:.4g} in "
        f"the model and {real:.4g} in the environment: {verdict}.{lost}"
    )


def _seeds(values: pd.Series, form: str) -> str:
    """Returns the range over seeds in brackets, if there are several."""
    if len(values) < 2 or values.min() == values.max():
        return ""
    return f" (seeds: {values.min():{form}} to {values.max():{form}})"


def _plural(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
