"""The report's section on hypergradients: what their diagnostics say about a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.refreshes import Tables, first_and_last_quarter
from analysis.rendering import markdown_table
from analysis.wording import number
from experiment import metrics

INNER, ALIGNMENT = "omd/inner_gradient", "omd/alignment"
RESIDUAL, FAILED, AGREEMENT = "omd/cg_residual", "omd/cg_failed", "omd/cosine_identity_cg"
# per epoch, where the inverse is not the identity; the second is a share of steps
TRAINING_RESIDUAL, TRAINING_FAILED = "model/hessian_residual", "model/hessian_failed"
SMALL = 0.1  # relative lengths that count as nearly zero; this and the cosines are our choice
ALONG, ACROSS = 0.9, 0.5  # cosines from which directions are nearly the same, and have in common
NOTHING = 1.0  # residual of the solution 0
_INVERSES = {
    "cg": "conjugate gradients",
    "neumann": "a Neumann series",
    "exact": "a dense solver",
}


def section(workdir: Path, epochs: Tables, config: dict[str, Any]) -> str:
    """Returns the Markdown on `omd/` metrics, and on how well the training inverted the Hessian.

    Args:
      workdir: run folder.
      epochs: what `metrics.read` returns for it.
      config: of the run, from its `config.json`.

    Returns:
      "" if the run recorded neither.
    """
    tables = metrics.read_refreshes(workdir)
    paragraphs = [_training(epochs, config)]
    if any(FAILED in table for table in tables.values()):
        tables = _of_learned(tables, config)
        rows = _pooled(tables, FAILED)
        paragraphs += (
            [_used(config), _solver(rows), _directions(tables), _agreement(rows), _table(tables)]
            if len(rows)
            else [
                "Every diagnosis was made before learning began: a lower "
                "--config.omd.diagnose_every makes more."
            ]
        )
    text = "\n\n".join(filter(None, paragraphs))
    return f"## Hypergradients\n\n{text}" if text else ""


def _of_learned(tables: Tables, config: dict[str, Any]) -> Tables:
    """Leaves out the diagnosis that one-step agents make of untrained networks."""
    if config.get("agent") != "dyna":
        return tables
    untrained = config["initial_steps"] + 1
    return {seed: table[table["env_step"] != untrained] for seed, table in tables.items()}


def _used(config: dict[str, Any]) -> str:
    """Says what the diagnoses have to do with the training, where that is not obvious."""
    if config["model"]["objective"] != "omd":
        return (
            "This run's model was not trained with hypergradients; the diagnoses say what they "
            "would have been."
        )
    if config["omd"]["inverse"] == "identity":
        return (
            "The model was trained with the identity in place of the inverse Hessian; each "
            "diagnosis compares it with conjugate gradients on a single batch."
        )
    return ""


def _training(epochs: Tables, config: dict[str, Any]) -> str:
    """Says how well the linear systems of the training steps were solved."""
    if not any(TRAINING_RESIDUAL in table for table in epochs.values()):
        return ""
    residual = float(_pooled(epochs, TRAINING_RESIDUAL)[TRAINING_RESIDUAL].mean())
    first, last = first_and_last_quarter(epochs, TRAINING_RESIDUAL)
    inverse = config["omd"]["inverse"]
    text = (
        "Training steps solved H u = v, with H the Hessian of the critics' loss in the model, by "
        f"{_INVERSES.get(inverse, inverse)}. The residual |H u - v| / |v| was "
        f"**{number(residual)}** on average, {number(first)} in the first quarter of the "
        f"epochs and {number(last)} in the last; 0 is solved, 1 is what u = 0 leaves. "
    )
    if any(TRAINING_FAILED in table for table in epochs.values()):
        share = float(_pooled(epochs, TRAINING_FAILED)[TRAINING_FAILED].mean())
        text += f"In {share:.1%} of the steps it was no better than that. "
    if residual < SMALL:
        return text + "So the steps had nearly the direction that the theorem asks for."
    return text + "So treat the direction of the steps as a heuristic, not as the theorem's."


def _solver(rows: pd.DataFrame) -> str:
    """Says how often the conjugate gradients of the diagnoses failed; never nothing."""
    failed = rows[FAILED] > 0.5
    diagnoses = f"{len(rows):,} diagnos{'i' if len(rows) == 1 else 'e'}s"
    if not failed.any():
        residual = number(rows[RESIDUAL].median())
        return f"Conjugate gradients converged in all of {diagnoses} (median residual {residual})."
    residual = rows[RESIDUAL][failed].median()
    text = (
        f"**Conjugate gradients did not converge in {failed.sum():,} of {diagnoses}** "
        f"(median residual {number(residual)})"
    )
    if residual < SMALL:
        return f"{text}, though they came close."
    return (
        f"{text}: treat what they say there, the cosine with the identity included, as a "
        "heuristic. The Hessian of critics with ReLU units is indefinite, which the method is not "
        "made for."
    )


def _directions(tables: Tables) -> str:
    """Says how far the critics are from optimal in the model, and which way it moves them."""
    inner, alignment = (
        first_and_last_quarter(tables, name, np.median)[1] for name in (INNER, ALIGNMENT)
    )
    if inner < SMALL:
        optimal = "by that measure these nearly are"
    else:
        optimal = (
            "these are not, so that a hypergradient is rather that of one more small step of theirs"
        )
    return (
        "In the last quarter of the diagnoses (medians) the gradient of the critics' loss in the "
        f"model was {number(inner)} times as long as that on real transitions: the theorem asks "
        f"for 0, critics that are optimal in the model; {optimal}. The two had a cosine of "
        f"{number(alignment)}: the model moves the critics {_way(alignment)}."
    )


def _agreement(rows: pd.DataFrame) -> str:
    """Says how alike both hypergradients are, of the whole run: single cosines scatter widely."""
    better = rows[rows[RESIDUAL] < NOTHING]
    if better.empty:
        return (
            "No diagnosis had a residual below that of the solution 0, so conjugate gradients say "
            "nothing about the identity."
        )
    low, median, high = (number(x) for x in better[AGREEMENT].quantile([0.25, 0.5, 0.75]))
    solved = int((better[FAILED] < 0.5).sum())
    worse = len(rows) - len(better)
    return (
        "The hypergradients by identity and by conjugate gradients had a cosine of "
        f"**{median}** (median; quartiles {low} and {high}) over the {len(better):,} of "
        f"{len(rows):,} diagnoses in which conjugate gradients left less than the solution 0 does; "
        f"in {solved:,} they converged"
        + (f", in {worse:,} they were no better than no solution." if worse else ".")
    )


def _way(cosine: float) -> str:
    if cosine >= ALONG:
        return "the way that reality does"
    if cosine >= ACROSS:
        return "partly the way that reality does"
    if cosine > -ACROSS:
        return "in a direction that has little to do with reality's"
    return "against the way that reality does"


def _table(tables: Tables) -> str:
    rows = [
        [name, *(f"{value:.4g}" for value in first_and_last_quarter(tables, name, np.median))]
        for name in (INNER, ALIGNMENT, RESIDUAL)
    ]
    header = ["median over seeds and diagnoses", "first quarter", "last quarter"]
    return markdown_table(header, rows)


def _pooled(tables: Tables, column: str) -> pd.DataFrame:
    """Returns the rows of all seeds that have a metric."""
    return pd.concat([table.dropna(subset=column) for table in tables.values() if column in table])
