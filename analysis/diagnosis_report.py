"""The files of a diagnosis: table, figure page, and what they mean."""

from pathlib import Path

import pandas as pd

from analysis import diagnosis_figure
from analysis.diagnosis_table import REWARD, dimensions, has_model, only, select
from analysis.diagnosis_text import paragraph
from analysis.rendering import markdown_table, save_figure
from analysis.value_error import LARGEST_TAIL
from analysis.wording import counted, number
from experiment.files import disk_problems_as_user_errors, write_text_atomically

NAME = "diagnosis"

# Rows of the table of numbers, at their first and last step; of returns, at the last alone.
TABLE = {
    "open_loop/error": "open-loop error (std of the observations)",
    "open_loop/spread": "spread of the elites (same unit)",
    "open_loop/no_change": "error of predicting no change (same unit)",
    "nll/elites": "NLL of single elites (nats per dimension)",
    "nll/mixture": "NLL of their mixture (nats per dimension)",
    "nll/constant": "NLL of a constant Gaussian (nats per dimension)",
    "calibration/overconfidence": "RMS error in predicted standard deviations",
    "disagreement/one_step_spearman": "rank correlation of disagreement and error",
    "disagreement/open_loop_spearman": "rank correlation of disagreement and error",
    "termination/one_step_precision": "precision of predicted terminations",
    "termination/one_step_recall": "recall of terminations",
    "termination/open_loop_precision": "precision of predicted terminations",
    "termination/open_loop_recall": "recall of terminations",
    "value/bias": "bias of the value (discounted soft return)",
    "value/rmse": "RMSE of the value (same unit)",
    "value/correlation": "correlation of value and return",
    "return/environment": "return in the environment",
    "return/model": "return in the model",
}

_VALUE_CAPTION = (
    "**Value estimate**: bias and root-mean-square error (RMSE) of the critic's value against the "
    "discounted return that followed, entropy bonus included. The dotted line is the RMSE of "
    "guessing the mean return everywhere."
)
_CAPTION = f"""
**Open-loop error**: each elite replays the real actions from a real state and is fed its own mean
predictions; root mean square (RMS) over elites, segments and dimensions. Above the dotted line a
constant is the better guess, above the dashed one the first state. The spread is the standard
deviation over the elites; where it is far below the error, they are wrong together. **By
dimension**: the same for every dimension; vertical lines are the range of the seeds. **Negative
log-likelihood** of real transitions; the constant Gaussian has the data's own mean and variance.
**Calibration**: below the diagonal the model is over-confident, above it under-confident.
**Disagreement**: error of the elites' mean prediction in tenths of the predictions, from the tenth
on which they agree most to the one on which they agree least.
{_VALUE_CAPTION} To the right, the policy first takes steps in the model. **Terminations**: the
termination function applied to predictions; precision is the share of predicted terminations that
are real, recall the share of real ones that are predicted; dots are seeds, counts are per elite.
**Return so far**: undiscounted sum of rewards of real episodes and of model rollouts of the same
policy from the same first states; bands are 95 % Student-t intervals over episodes.
"""


def write(frame: pd.DataFrame, folder: Path) -> Path:
    """Writes `diagnosis.csv`, `.png` and `.md`; the two latter follow from the first.

    Args:
      frame: from `diagnosis_table.tidy`.
      folder: created if need be.

    Returns:
      The path of `diagnosis.md`.

    Raises:
      UserError: the disk is full or not writable.
    """
    with disk_problems_as_user_errors(folder, "The diagnosis"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / f"{NAME}.csv", frame.to_csv(index=False))
        write_text_atomically(folder / f"{NAME}.md", report(frame))
    save_figure(diagnosis_figure.draw(frame), folder, f"{NAME}.png", "The diagnosis")
    return folder / f"{NAME}.md"


def report(frame: pd.DataFrame) -> str:
    """Returns the Markdown: finding, figure with its caption, numbers."""
    caption = _CAPTION if has_model(frame) else _VALUE_CAPTION
    sections = [
        f"# Diagnosis of {frame.run.iloc[0]}",
        paragraph(frame),
        f"![Model and values against real episodes]({NAME}.png)",
        " ".join(caption.split()),
        _data(frame),
        markdown_table(["quantity", "steps", "mean", "lowest seed", "highest seed"], _rows(frame)),
    ]
    return "\n\n".join(sections) + "\n"


def _data(frame: pd.DataFrame) -> str:
    """Says what everything was measured on."""
    episodes = only(frame, "data/episodes").iloc[0]
    steps = only(frame, "data/transitions").sum()
    positions = only(frame, "value/positions").sum()
    text = (
        f"Measured on {counted(episodes, 'new episode')} per seed, {counted(steps, 'step')} in "
        "all, played with the policy as it explores while training; nothing was trained or "
        "selected on them. The value was estimated at "
        f"{counted(positions, 'position')}: where a time limit cut the episode, only those count "
        f"at which the discount until then is at most {LARGEST_TAIL}, and the critic's own value "
        "stands for what is missing."
    )
    if constant := dimensions(frame, "data/constant_target"):
        names = ", ".join(n if n == REWARD else f"dimension {n}" for n in constant)
        text += f" Targets that never changed are left out of likelihood and calibration: {names}."
    return text


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    rows = []
    for quantity, words in TABLE.items():
        table = select(frame, quantity)
        first = table.index[:0] if quantity.startswith("return/") else table.index[:1]
        for where in dict.fromkeys([*first, *table.index[-1:]]):
            values = table.loc[where].dropna()
            numbers = (values.mean(), values.min(), values.max())
            rows.append([words, f"{where:,.0f}", *map(number, numbers)])
    return rows
