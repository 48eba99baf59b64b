"""Fitting the ensemble to the replay: one compiled, early-stopped program.

The rule of Janner et al. 2019 (MBPO): hold rows out, bootstrap the rest per member, train in epochs
until no member has improved its hold-out error for a while, and give every member its best weights
back. A cap on gradient steps bounds the time of one fit. With `model.keep="last"` there is the cap
alone: the weights after that many steps stay. Row counts and epochs are dynamic, shapes are not, so
the same program serves the whole run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from models import normalizer
from models.calibration import with_holdout_variance
from models.early_stopping import Progress, track_best
from models.ensemble import Ensemble, Normalizers, gaussian_nll
from models.objectives import Context, ModelObjective
from models.split import Split, minibatch_rows, random_order, split_rows
from models.training import NEVER, NO_REFIT, ModelState, Refit, Trained, make_training
from replay import ReplayState, Transition, buffer

SCORE_KEY = 2  # folded into the key of a fit, whose split uses 0 and 1
SCORING_BLOCK = 1000  # hold-out rows per forward pass: small enough for the cache
CENTRAL_90 = 1.6449  # standard deviations around the mean that hold 90 % of a Gaussian


class Carry(NamedTuple):
    """What epochs of one fit hand on."""

    trained: Trained
    progress: Progress
    epochs: chex.Array  # int32 [], done


class Fit(NamedTuple):
    """The functions of one fitting procedure.

    Attributes:
      init: `(key) -> ModelState`.
      fit_and_refit: `(ModelState, replay, Context, key, learner) -> (ModelState, learner,
        metrics)`; the normalisers of the context are replaced by the ones fitted here.
      fit: the same without learner, if there is nothing to refit.
    """

    init: Callable[[chex.PRNGKey], ModelState]
    fit_and_refit: Callable[..., tuple[ModelState, Any, dict[str, chex.Array]]]
    fit: Callable[..., tuple[ModelState, dict[str, chex.Array]]]


def make_fit(
    config: ConfigDict, ensemble: Ensemble, objective: ModelObjective, refit: Refit = NO_REFIT
) -> Fit:
    """Builds the fit of a resolved configuration (its `model` block)."""
    hyper = config.model
    training = make_training(config, ensemble, objective, refit)

    def fit_and_refit(
        model: ModelState, replay: ReplayState, context: Context, key: chex.PRNGKey, learner: Any
    ) -> tuple[ModelState, Any, dict[str, chex.Array]]:
        split_key, epoch_key = jax.random.split(key)
        split = split_rows(
            split_key,
            replay,
            num_members=ensemble.num_members,
            holdout_ratio=hyper.holdout_ratio,
            holdout_max=hyper.holdout_max,
            bootstrap=hyper.bootstrap,
            permanent=hyper.permanent_holdout,
        )
        normalizers = _fit_normalizers(replay, ensemble, hyper.normalize_targets)
        model = model.replace(normalizers=normalizers)
        context = context.replace(normalizers=normalizers)
        if objective.begin is not None:
            model = model.replace(objective=objective.begin(model.objective, context))
        steps_per_epoch = -(-split.train_size // hyper.batch_size)
        max_steps = hyper.max_gradient_steps or NEVER
        if hyper.first_gradient_steps:
            untrained = optax.tree.get(model.optimizer, "count") == 0
            max_steps = jnp.where(untrained, hyper.first_gradient_steps, max_steps)
        max_epochs = hyper.max_epochs or NEVER
        keep_best = hyper.keep == "best"

        def errors(params: chex.ArrayTree, trained: Trained) -> dict[str, chex.Array]:
            def score(params: chex.ArrayTree, batch: Transition) -> chex.Array:
                score_key = jax.random.fold_in(key, SCORE_KEY)  # the same for all epochs
                state = trained.model.objective
                return objective.score(params, state, batch, trained.context, score_key)

            needed = score if hyper.validation == "objective" else None
            return holdout_errors(ensemble, params, normalizers, replay, split, needed)

        def run_epoch(carry: Carry) -> Carry:
            order_key, step_key = jax.random.split(jax.random.fold_in(epoch_key, carry.epochs))
            order = random_order(order_key, replay.capacity, split.train_size)

            begin = carry.trained.steps

            def batch_at(step: chex.Array) -> Transition:
                index = step - begin
                rows = minibatch_rows(split, order, index, hyper.batch_size, hyper.bootstrap)
                return buffer.gather_slots(replay, rows)

            end = jnp.minimum(begin + steps_per_epoch, max_steps)
            trained = training.advance(carry.trained, end, batch_at, step_key)
            progress = carry.progress
            if not keep_best:
                return Carry(trained, progress, carry.epochs + 1)
            if refit.interval != NEVER and hyper.validation == "objective":
                # The critics have moved, and with them what the best weights so far are worth.
                rescored = errors(progress.best_params, trained)["objective"]
                known = jnp.isfinite(progress.best_score)
                progress = progress._replace(
                    best_score=jnp.where(known, rescored, progress.best_score)
                )
            params = trained.params
            score = errors(params, trained)[hyper.validation]
            progress = track_best(progress, params, score, hyper.improvement_threshold)
            return Carry(trained, progress, carry.epochs + 1)

        def unfinished(carry: Carry) -> chex.Array:
            stale = carry.progress.stale_epochs >= hyper.patience
            return ~stale & (carry.trained.steps < max_steps) & (carry.epochs < max_epochs)

        example = buffer.gather_slots(replay, split.train[:, : hyper.batch_size])
        start = training.start(model, learner, context, example)
        if hyper.incumbent_competes and keep_best:
            score = errors(model.params, start)[hyper.validation]
        else:
            score = jnp.full(ensemble.num_members, jnp.inf)
        zero = jnp.zeros((), jnp.int32)
        progress = Progress(model.params, score, jnp.zeros((), bool), zero)
        done, progress, epochs = jax.lax.while_loop(
            unfinished, run_epoch, Carry(start, progress, zero)
        )
        # Where no epoch improved on the weights before the fit, the last ones stay (Pineda et al.).
        params = jax.tree.map(
            lambda best, last: jnp.where(progress.any_improved, best, last),
            progress.best_params,
            done.params,
        )
        if hyper.variance == "holdout":
            params = with_holdout_variance(ensemble, params, normalizers, replay, split)
        final = errors(params, done)
        elites = jnp.argsort(final[hyper.validation])[: hyper.num_elites]
        metrics = {f"model/holdout_{name}": value[elites].mean() for name, value in final.items()}
        metrics |= {f"model/{name}": value for name, value in done.metrics.items()}
        metrics |= {"model/fit_epochs": epochs, "model/fit_steps": done.steps}
        return done.model.replace(params=params, elites=elites), done.learner, metrics

    def fit(
        model: ModelState, replay: ReplayState, context: Context, key: chex.PRNGKey
    ) -> tuple[ModelState, dict[str, chex.Array]]:
        model, _, metrics = fit_and_refit(model, replay, context, key, ())
        return model, metrics

    return Fit(training.init, fit_and_refit, fit)


def holdout_errors(
    ensemble: Ensemble,
    params: chex.ArrayTree,
    normalizers: Normalizers,
    replay: ReplayState,
    split: Split,
    score: Callable[[chex.ArrayTree, Transition], chex.Array] | None = None,
) -> dict[str, chex.Array]:
    """Scores every member on the held-out rows.

    Returns, each [E] and averaged over rows and target dimensions: "mse" in raw units, "nll" (see
    `gaussian_nll`), and two measures of the predicted variance: "z2", the mean squared error in
    predicted standard deviations, and "coverage90", the share of targets inside the central 90 %
    interval. A calibrated model has 1 and 0.9. With `score`, `(params, Transition [E, B]) ->
    [E, B]`, its mean too, as "objective".
    """
    block = min(SCORING_BLOCK, split.holdout.shape[0])

    def score_block(index: chex.Array, totals: dict[str, chex.Array]) -> dict[str, chex.Array]:
        position = index * block + jnp.arange(block)
        counted = (position < split.holdout_size)[None, :, None]
        rows = buffer.gather_slots(replay, split.holdout[position % split.holdout.shape[0]])
        batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (ensemble.num_members, *x.shape)), rows)
        prediction = ensemble.predict(params, normalizers, batch.observation, batch.action)
        target = ensemble.targets(batch)
        error = jnp.square(prediction.mean - target)
        z2 = error * jnp.exp(-prediction.log_variance)
        values = {
            "mse": error,
            "nll": gaussian_nll(prediction, target),
            "z2": z2,
            "coverage90": (z2 < CENTRAL_90**2).astype(jnp.float32),
        }
        if score is not None:
            values["objective"] = score(params, batch)[..., None]
        return {
            name: totals[name] + jnp.where(counted, value, 0.0).mean(axis=2).sum(axis=1)
            for name, value in values.items()
        }

    names = ("mse", "nll", "z2", "coverage90", *(["objective"] if score else []))
    totals = {name: jnp.zeros(ensemble.num_members) for name in names}
    blocks = -(-split.holdout_size // block)
    totals = jax.lax.fori_loop(0, blocks, score_block, totals)
    return {name: total / jnp.maximum(split.holdout_size, 1) for name, total in totals.items()}


def _fit_normalizers(
    replay: ReplayState, ensemble: Ensemble, normalize_targets: bool
) -> Normalizers:
    rows, valid = buffer.contents(replay)
    inputs = normalizer.fit(jnp.concatenate([rows.observation, rows.action], axis=-1), valid)
    if not normalize_targets:
        return Normalizers(inputs, normalizer.identity(ensemble.target_size))
    return Normalizers(inputs, normalizer.fit(ensemble.targets(rows), valid))
