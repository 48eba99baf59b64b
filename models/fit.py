"""Fitting the ensemble to the replay: one compiled, early-stopped program.

The rule of Janner et al. 2019 (MBPO): hold rows out, bootstrap the rest per member, train in epochs
until no member has improved its hold-out error for a while, and give every member its best weights
back. A cap on gradient steps bounds the time of one fit. Row counts and epochs are dynamic, shapes
are not, so the same program serves the whole run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from models import normalizer
from models.early_stopping import Progress, track_best
from models.ensemble import Ensemble, Normalizers, gaussian_nll
from models.objectives import Context, ModelObjective
from models.split import Split, minibatch_rows, random_order, split_rows
from replay import ReplayState, Transition, buffer

NEVER = jnp.iinfo(jnp.int32).max  # more gradient steps than a fit ever takes
SCORE_KEY = 2  # folded into the key of a fit, whose split uses 0 and 1
SCORING_BLOCK = 1000  # hold-out rows per forward pass: small enough for the cache
CENTRAL_90 = 1.6449  # standard deviations around the mean that hold 90 % of a Gaussian


class ModelState(struct.PyTreeNode):
    """The learned model and everything its training carries."""

    params: chex.ArrayTree  # leading axis E
    normalizers: Normalizers
    elites: chex.Array  # int32 [K], members with the lowest hold-out error
    optimizer: optax.OptState
    objective: Any  # state of the ModelObjective

    def elite_params(self) -> chex.ArrayTree:
        """Returns the parameters of the elites, leading axis K."""
        return jax.tree.map(lambda leaf: leaf[self.elites], self.params)


class Refit(NamedTuple):
    """Something that is brought up to date with the model while the model is fitted.

    Attributes:
      interval: gradient steps of the model between two refits, counted from the start of a fit.
      run: `(model, learner, context, count, key) -> (learner, context)`: `learner` is what is
        refitted, `count` (from 0) how often it was in this fit.
    """

    interval: int
    run: Callable[[ModelState, Any, Context, chex.Array, chex.PRNGKey], tuple[Any, Context]]


class Carry(NamedTuple):
    """What epochs of one fit hand on."""

    model: ModelState  # its elites are those of the fit before
    learner: Any  # what a `Refit` refits
    context: Context
    progress: Progress
    epochs: chex.Array  # int32 [], done
    steps: chex.Array  # int32 [], gradient steps done
    metrics: dict[str, chex.Array]  # of the last gradient step


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
    config: ConfigDict, ensemble: Ensemble, objective: ModelObjective, refit: Refit | None = None
) -> Fit:
    """Builds the fit of a resolved configuration (its `model` block)."""
    hyper = config.model
    members = jnp.arange(ensemble.num_members)
    optimizer = _optimizer(config)
    refit = refit or Refit(NEVER, lambda model, learner, context, count, key: (learner, context))

    def init(key: chex.PRNGKey) -> ModelState:
        params_key, objective_key = jax.random.split(key)
        params = ensemble.init(params_key)
        return ModelState(
            params=params,
            normalizers=Normalizers(
                normalizer.identity(ensemble.input_size), normalizer.identity(ensemble.target_size)
            ),
            elites=members[: hyper.num_elites],
            optimizer=optimizer.init(params),
            objective=objective.init(objective_key),
        )

    def gradient_step(
        model: ModelState, batch: Transition, context: Context, key: chex.PRNGKey
    ) -> tuple[ModelState, dict[str, chex.Array]]:
        grads, (objective_state, metrics) = jax.grad(objective.loss, has_aux=True)(
            model.params, model.objective, batch, context, key
        )
        updates, opt_state = optimizer.update(grads, model.optimizer, model.params)
        params = optax.apply_updates(model.params, updates)
        return model.replace(params=params, optimizer=opt_state, objective=objective_state), metrics

    def train(
        carry: Carry,
        end: chex.Array,
        batch_at: Callable[[chex.Array], Transition],
        key: chex.PRNGKey,
    ) -> Carry:
        """Takes gradient steps up to number `end`, and makes the refits that are due."""

        def minibatch(step: chex.Array, state: tuple, context: Context) -> tuple:
            step_own_key = jax.random.fold_in(key, step)
            return gradient_step(state[0], batch_at(step), context, step_own_key)

        def to_next_refit(carry: Carry) -> Carry:
            refits = carry.steps // refit.interval
            stop = jnp.minimum((refits + 1) * refit.interval, end)
            model, metrics = jax.lax.fori_loop(
                carry.steps,
                stop,
                lambda step, state: minibatch(step, state, carry.context),
                (carry.model, carry.metrics),
            )
            refit_key = jax.random.fold_in(key, NEVER - stop)
            learner, context = jax.lax.fori_loop(  # once or not at all
                0,
                (stop % refit.interval == 0).astype(jnp.int32),
                lambda _, state: refit.run(model, state[0], state[1], refits, refit_key),
                (carry.learner, carry.context),
            )
            return carry._replace(
                model=model, learner=learner, context=context, steps=stop, metrics=metrics
            )

        return jax.lax.while_loop(lambda carry: carry.steps < end, to_next_refit, carry)

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
        )
        normalizers = _fit_normalizers(replay, ensemble, hyper.normalize_targets)
        model = model.replace(normalizers=normalizers)
        context = context.replace(normalizers=normalizers)
        if objective.begin is not None:
            model = model.replace(objective=objective.begin(model.objective, context))
        steps_per_epoch = -(-split.train_size // hyper.batch_size)
        max_steps = hyper.max_gradient_steps or NEVER

        def errors(params: chex.ArrayTree, carry: Carry) -> dict[str, chex.Array]:
            def score(params: chex.ArrayTree, batch: Transition) -> chex.Array:
                score_key = jax.random.fold_in(key, SCORE_KEY)  # the same for all epochs
                return objective.score(
                    params, carry.model.objective, batch, carry.context, score_key
                )

            needed = score if hyper.validation == "objective" else None
            return holdout_errors(ensemble, params, normalizers, replay, split, needed)

        def run_epoch(carry: Carry) -> Carry:
            order_key, step_key = jax.random.split(jax.random.fold_in(epoch_key, carry.epochs))
            order = random_order(order_key, replay.capacity, split.train_size)

            def batch_at(step: chex.Array) -> Transition:
                index = step - carry.steps
                rows = minibatch_rows(split, order, index, hyper.batch_size, hyper.bootstrap)
                return buffer.gather_slots(replay, rows)

            end = jnp.minimum(carry.steps + steps_per_epoch, max_steps)
            done = train(carry, end, batch_at, step_key)
            progress = carry.progress
            if refit.interval != NEVER and hyper.validation == "objective":
                # The critics have moved, and with them what the best weights so far are worth.
                rescored = errors(progress.best_params, done)["objective"]
                known = jnp.isfinite(progress.best_score)
                progress = progress._replace(
                    best_score=jnp.where(known, rescored, progress.best_score)
                )
            score = errors(done.model.params, done)[hyper.validation]
            progress = track_best(progress, done.model.params, score, hyper.improvement_threshold)
            return done._replace(progress=progress, epochs=carry.epochs + 1)

        def unfinished(carry: Carry) -> chex.Array:
            return (carry.progress.stale_epochs < hyper.patience) & (carry.steps < max_steps)

        example = buffer.gather_slots(replay, split.train[:, : hyper.batch_size])
        _, metrics = jax.eval_shape(gradient_step, model, example, context, key)
        zero = jnp.zeros((), jnp.int32)
        start = Carry(
            model=model,
            learner=learner,
            context=context,
            progress=Progress(
                model.params,
                jnp.full(ensemble.num_members, jnp.inf),
                jnp.zeros((), bool),
                zero,
            ),
            epochs=zero,
            steps=zero,
            metrics=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics),
        )
        if hyper.incumbent_competes:
            incumbent = errors(model.params, start)[hyper.validation]
            start = start._replace(progress=start.progress._replace(best_score=incumbent))
        done = jax.lax.while_loop(unfinished, run_epoch, start)
        # Where no epoch improved on the weights before the fit, the last ones stay (Pineda et al.).
        params = jax.tree.map(
            lambda best, last: jnp.where(done.progress.any_improved, best, last),
            done.progress.best_params,
            done.model.params,
        )
        final = errors(params, done)
        elites = jnp.argsort(final[hyper.validation])[: hyper.num_elites]
        metrics = {f"model/holdout_{name}": value[elites].mean() for name, value in final.items()}
        metrics |= {f"model/{name}": value for name, value in done.metrics.items()}
        metrics |= {"model/fit_epochs": done.epochs, "model/fit_steps": done.steps}
        return done.model.replace(params=params, elites=elites), done.learner, metrics

    def fit(
        model: ModelState, replay: ReplayState, context: Context, key: chex.PRNGKey
    ) -> tuple[ModelState, dict[str, chex.Array]]:
        model, _, metrics = fit_and_refit(model, replay, context, key, ())
        return model, metrics

    return Fit(init, fit_and_refit, fit)


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


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    hyper = config.model
    parts = [
        _weight_decay(hyper.weight_decay, hyper.hidden_depth),
        optax.adam(hyper.learning_rate),
    ]
    if hyper.max_grad_norm:
        parts.insert(0, optax.clip_by_global_norm(hyper.max_grad_norm))  # of all members together
    return optax.chain(*parts)


def _weight_decay(
    coefficients: tuple[float, ...], hidden_depth: int
) -> optax.GradientTransformation:
    """L2 on weight matrices only, one coefficient per layer (or one for all), coupled with Adam."""
    if len(coefficients) == 1:
        coefficients = coefficients * (hidden_depth + 1)

    def coefficient(path: tuple, leaf: chex.Array) -> float:
        names = [entry.key for entry in path]
        if names[-1] != "kernel":
            return 0.0
        layer = next(name for name in names if name.startswith("layer_"))
        return coefficients[int(layer.removeprefix("layer_"))]

    def add_decay(grads: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
        rates = jax.tree_util.tree_map_with_path(coefficient, params)
        return jax.tree.map(lambda g, p, rate: g + rate * p if rate else g, grads, params, rates)

    return optax.stateless(add_decay)
