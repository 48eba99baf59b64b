"""What options of the model do to the error of MBPO's ensemble, on rows of Hopper replays.

    python studies/model_options/run.py --runs=runs/benchmark_tasks/Hopper-v4/dhmbpo/seed_0,...

Takes the first 20,000 real transitions of each run. A tenth of them, drawn once, is set aside and
measures every variant alike, whatever a fit itself holds out. MBPO's ensemble is fitted to the rest
of the first 5,000, then three times more, with its weights kept, to that of the first 10,000,
15,000 and 20,000. Writes `results/model_options/fits.csv` and a table, `report.md`, beside it.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import chex  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from absl import app, flags  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from agents.sac import context_of, make_sac, parts_of  # noqa: E402
from analysis.rendering import markdown_table  # noqa: E402
from analysis.statistics import t_interval  # noqa: E402
from benchmarks.running import write_table  # noqa: E402
from configs import default  # noqa: E402
from envs import spec as spec_of  # noqa: E402
from experiment import command_line, configuration  # noqa: E402
from experiment.files import write_text_atomically  # noqa: E402
from experiment.restore import restore, seed_slice  # noqa: E402
from models.ensemble import bound_penalty, gaussian_nll, make_ensemble  # noqa: E402
from models.fit import make_fit  # noqa: E402
from models.objectives import OBJECTIVES, ModelObjective, Parts  # noqa: E402
from replay import Transition, buffer, example_transition  # noqa: E402

RESULTS = ROOT / "results" / "model_options"
FITS = (5_000, 10_000, 15_000, 20_000)
ASIDE = 0.1  # share of the rows that no fit sees
BETA = 0.5  # Seitzer et al. 2022, arXiv 2203.09168
BETA_NLL = "beta_nll"  # an objective of this study alone

VARIANTS: dict[str, dict[str, Any]] = {
    "MBPO": {},
    "targets normalised": {"model.normalize_targets": True},
    "LayerNorm": {"model.layer_norm": True},
    "constant variance": {"model.variance": "constant"},
    "constant variance, normalised": {
        "model.variance": "constant",
        "model.normalize_targets": True,
    },
    "constant variance, normalised, LayerNorm": {
        "model.variance": "constant",
        "model.normalize_targets": True,
        "model.layer_norm": True,
    },
    "beta-NLL": {"model.objective": BETA_NLL},
    "hold-out for life": {"model.permanent_holdout": True},
    "incumbent competes": {"model.incumbent_competes": True},
    "incumbent competes, hold-out for life": {
        "model.incumbent_competes": True,
        "model.permanent_holdout": True,
    },
    "first fit of 3,000 steps": {"model.first_gradient_steps": 3_000},
    "mbrl_lib": {"preset": "mbrl_lib"},
    "mbrl_lib, hold-out for life": {"preset": "mbrl_lib", "model.permanent_holdout": True},
}

_RUNS = flags.DEFINE_list("runs", None, "Run folders with a checkpoint.", required=True)


def beta_nll(config: ConfigDict, parts: Parts) -> ModelObjective:
    """Returns the likelihood whose elements are weighted by sigma^(2 beta), a constant."""
    del config

    def loss(params, state, batch: Transition, context, key):
        del key
        prediction = parts.ensemble.predict(
            params, context.normalizers, batch.observation, batch.action
        )
        weight = jax.lax.stop_gradient(jnp.exp(BETA * prediction.log_variance))
        nll = (weight * gaussian_nll(prediction, parts.ensemble.targets(batch))).mean(axis=(1, 2))
        return nll.sum() + bound_penalty(params), (state, {"train_nll": nll.mean()})

    def score(params, state, batch, context, key):
        raise NotImplementedError("fits are judged by the squared error")

    return ModelObjective(lambda key: (), loss, score)


def real_rows(run: Path) -> Transition:
    """Returns the first transitions [20,000, ...] of a run's replay."""
    state = seed_slice(jax.device_get(restore(run).state), 0)
    if state.replay.size < FITS[-1] or state.replay.position != state.replay.size % len(
        state.replay.rows
    ):
        raise SystemExit(f"error: {run} has fewer than {FITS[-1]} rows, or has lost its first.")
    rows, _ = buffer.contents(state.replay)
    return jax.tree.map(lambda leaf: leaf[: FITS[-1]], rows)


def fits(name: str, rows: Transition, seed: int) -> Iterator[dict[str, Any]]:
    """Fits one variant again and again; yields a row of the table after each fit."""
    config = default.get_config("Hopper-v4")
    config.update_from_flattened_dict(
        {k: v for k, v in VARIANTS[name].items() if v != BETA_NLL} | {"total_steps": FITS[-1]}
    )
    own = VARIANTS[name].get("model.objective") == BETA_NLL
    config = configuration.resolve(config)
    spec = spec_of(config.env)
    ensemble, learner = make_ensemble(config, spec), make_sac(config, spec)
    parts = parts_of(learner, ensemble, spec)
    make_objective = beta_nll if own else OBJECTIVES[config.model.objective]
    fit = make_fit(config, ensemble, make_objective(config, parts))
    key = jax.random.key(seed)
    model = fit.init(key)
    context = context_of(learner.init(key), model.normalizers)
    aside = np.random.default_rng(seed).random(FITS[-1]) < ASIDE
    empty = buffer.init(FITS[-1], example_transition(spec.observation_size, spec.action_size))
    judge = jax.jit(functools.partial(errors, ensemble))
    run_fit = jax.jit(fit.fit)
    for number, end in enumerate(FITS):
        seen = jnp.asarray(~aside & (np.arange(FITS[-1]) < end))
        replay = buffer.add_masked(empty, rows, seen)
        model, metrics = run_fit(model, replay, context, jax.random.fold_in(key, number))
        tested = aside & (np.arange(FITS[-1]) < end)
        judged = judge(model, Transition(*(leaf[tested] for leaf in rows)))
        yield {
            "variant": name,
            "seed": seed,
            "rows": end,
            "fit_epochs": int(metrics["model/fit_epochs"]),
            "fit_steps": int(metrics["model/fit_steps"]),
            **{measure: float(value) for measure, value in judged.items()},
        }


def errors(ensemble, model, rows: Transition) -> dict[str, chex.Array]:
    """Returns squared error and likelihood on rows [N, ...], means over the elites."""
    elites = model.elite_params()
    count = model.elites.shape[0]
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape)), rows)
    prediction = ensemble.predict(elites, model.normalizers, batch.observation, batch.action)
    target = ensemble.targets(batch)
    return {
        "mse": jnp.square(prediction.mean - target).mean(),
        "nll": gaussian_nll(prediction, target).mean(),
    }


def report(table: pd.DataFrame) -> str:
    """Returns the table of the first and the last fit, as Markdown."""
    lines = []
    for name in VARIANTS:
        cells = [name]
        for rows in (FITS[0], FITS[-1]):
            found = table[(table["variant"] == name) & (table["rows"] == rows)]
            mse = found["mse"].to_numpy()
            cells.append(f"{mse.mean():.5f} ± {t_interval(mse):.5f}")
            cells.append(f"{found['nll'].mean():.2f}")
            cells.append(f"{found['fit_steps'].mean():,.0f}")
        lines.append(cells)
    header = ["variant"]
    for rows in (FITS[0], FITS[-1]):
        header += [f"MSE at {rows:,}", "NLL", "steps"]
    return markdown_table(header, lines)


def main(argv: list[str]) -> None:
    """Fits every variant to the rows of every run."""
    del argv
    found = []
    for seed, run in enumerate(map(Path, _RUNS.value)):
        rows = real_rows(run)
        for name in VARIANTS:
            for row in fits(name, rows, seed):
                found.append(row)
                print(row, flush=True)
            write_table(pd.DataFrame(found), RESULTS / "fits.csv")
    write_text_atomically(RESULTS / "report.md", report(pd.DataFrame(found)) + "\n")


if __name__ == "__main__":
    with command_line.user_errors():
        app.run(main)
