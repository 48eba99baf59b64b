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
from models.ensemble import Ensemble, Normalizers, gaussian_nll
from models.objectives import Context, ModelObjective
from replay import ReplayState, Transition, buffer

SCORING_BLOCK = 1000  # hold-out rows per forward pass: small enough for the cache
CENTRAL_90 = 1.6449  # standard deviations around the mean that hold 90 % of a Gaussian


class ModelState(struct.PyTreeNode):
    """The learned model and everything its training carries."""

    params: chex.ArrayTree  # leading axis E
    normalizers: Normalizers
    elites: chex.Array  # int32 [K], members with the lowest hold-out error
    optimizer: optax.OptState
    objective: Any  # state of the ModelObjective


class Split(NamedTuple):
    """Which replay slots a fit trains on and which it holds out."""

    train: chex.Array  # int32 [E, N], slots; the first `train_size` entries are used
    train_size: chex.Array  # int32 []
    holdout: chex.Array  # int32 [H], slots; the first `holdout_size` entries are used
    holdout_size: chex.Array  # int32 []


class Progress(NamedTuple):
    """Early stopping: the best weights of every member so far."""

    best_params: chex.ArrayTree  # leading axis E
    best_score: chex.Array  # [E], hold-out error of best_params
    stale_epochs: chex.Array  # int32 [], epochs since any member improved


class Fit(NamedTuple):
    """The functions of one fitting procedure.

    Attributes:
      init: `(key) -> ModelState`.
      fit: `(ModelState, replay, Context, key) -> (ModelState, metrics)`; the normalisers of the
        context are replaced by the ones fitted here.
    """

    init: Callable[[chex.PRNGKey], ModelState]
    fit: Callable[..., tuple[ModelState, dict[str, chex.Array]]]


def make_fit(config: ConfigDict, ensemble: Ensemble, objective: ModelObjective) -> Fit:
    """Builds the fit of a resolved configuration (its `model` block)."""
    hyper = config.model
    members = jnp.arange(ensemble.num_members)
    optimizer = optax.chain(
        _weight_decay(hyper.weight_decay, hyper.hidden_depth), optax.adam(hyper.learning_rate)
    )

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
        carry: tuple[chex.ArrayTree, optax.OptState, Any],
        batch: Transition,
        context: Context,
        key: chex.PRNGKey,
    ):
        params, opt_state, objective_state = carry
        grads, (objective_state, metrics) = jax.grad(objective.loss, has_aux=True)(
            params, objective_state, batch, context, key
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, objective_state), metrics

    def fit(state: ModelState, replay: ReplayState, context: Context, key: chex.PRNGKey):
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
        context = context.replace(normalizers=normalizers)
        steps_per_epoch = -(-split.train_size // hyper.batch_size)
        no_cap = jnp.iinfo(jnp.int32).max
        max_steps = hyper.max_gradient_steps or no_cap

        def epoch(carry):
            training, progress, epochs, steps, _ = carry
            order_key, step_key = jax.random.split(jax.random.fold_in(epoch_key, epochs))
            order = _random_order(order_key, replay.capacity, split.train_size)
            epoch_end = jnp.minimum(steps + steps_per_epoch, max_steps)

            def minibatch(step, carry):
                training, _ = carry
                rows = minibatch_rows(split, order, step - steps, hyper.batch_size, hyper.bootstrap)
                batch = buffer.gather_slots(replay, rows)
                return gradient_step(training, batch, context, jax.random.fold_in(step_key, step))

            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics_shape)
            training, metrics = jax.lax.fori_loop(steps, epoch_end, minibatch, (training, zeros))
            score = holdout_errors(ensemble, training[0], normalizers, replay, split)["mse"]
            progress = track_best(progress, training[0], score, hyper.improvement_threshold)
            return training, progress, epochs + 1, epoch_end, metrics

        def unfinished(carry):
            _, progress, _, steps, _ = carry
            return (progress.stale_epochs < hyper.patience) & (steps < max_steps)

        training = (state.params, state.optimizer, state.objective)
        example = buffer.gather_slots(replay, split.train[:, : hyper.batch_size])
        _, metrics_shape = jax.eval_shape(gradient_step, training, example, context, key)
        zero_metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics_shape)
        if hyper.incumbent_competes:
            start = holdout_errors(ensemble, state.params, normalizers, replay, split)["mse"]
        else:
            start = jnp.full(ensemble.num_members, jnp.inf)
        progress = Progress(state.params, start, jnp.zeros((), jnp.int32))
        zero = jnp.zeros((), jnp.int32)
        (_, opt_state, objective_state), progress, epochs, steps, train_metrics = (
            jax.lax.while_loop(unfinished, epoch, (training, progress, zero, zero, zero_metrics))
        )
        params = progress.best_params
        final = holdout_errors(ensemble, params, normalizers, replay, split)
        elites = jnp.argsort(final["mse"])[: hyper.num_elites]
        state = ModelState(params, normalizers, elites, opt_state, objective_state)
        metrics = {f"model/holdout_{name}": value[elites].mean() for name, value in final.items()}
        metrics |= {f"model/{name}": value for name, value in train_metrics.items()}
        metrics |= {"model/fit_epochs": epochs, "model/fit_steps": steps}
        return state, metrics

    return Fit(init, fit)


def split_rows(
    key: chex.PRNGKey,
    replay: ReplayState,
    *,
    num_members: int,
    holdout_ratio: float,
    holdout_max: int,
    bootstrap: bool,
) -> Split:
    """Holds out a random `holdout_ratio` of the stored rows, at most `holdout_max`.

    With a ratio of 0 nothing is held out, and members are scored on rows they are trained on.
    With `bootstrap`, every member draws its training rows with replacement from the rest; without,
    all members have all of the rest. Consumes `key`.
    """
    order_key, bootstrap_key = jax.random.split(key)
    order = _random_order(order_key, replay.capacity, replay.size)
    holdout_max = min(holdout_max, replay.capacity)
    if holdout_ratio:
        holdout_size = jnp.minimum((holdout_ratio * replay.size).astype(jnp.int32), holdout_max)
        train_start = holdout_size
    else:
        holdout_size = jnp.minimum(replay.size, holdout_max)
        train_start = jnp.zeros((), jnp.int32)
    train_size = replay.size - train_start
    shape = (num_members, replay.capacity)
    if bootstrap:
        draws = jax.random.randint(bootstrap_key, shape, 0, jnp.maximum(train_size, 1))
    else:
        draws = jnp.broadcast_to(jnp.arange(replay.capacity), shape)
    train = order[(train_start + draws) % replay.capacity]
    return Split(train, train_size, order[:holdout_max], holdout_size)


def minibatch_rows(
    split: Split, order: chex.Array, index: chex.Array, batch_size: int, bootstrap: bool
) -> chex.Array:
    """Returns the replay slots [E, B] of minibatch `index` of an epoch in the given order [N].

    The last minibatch of an epoch wraps around to the first rows. Members with the same training
    rows (no bootstrap) start at different places of the order, so that no two see the same batches.
    """
    num_members = split.train.shape[0]
    offset = jnp.zeros(num_members, jnp.int32)
    if not bootstrap:
        offset = jnp.arange(num_members) * split.train_size // num_members
    position = index * batch_size + jnp.arange(batch_size)
    position = (position[None] + offset[:, None]) % jnp.maximum(split.train_size, 1)
    return jnp.take_along_axis(split.train, order[position], axis=1)


def track_best(
    progress: Progress, params: chex.ArrayTree, score: chex.Array, threshold: float
) -> Progress:
    """Snapshots the members whose score [E] fell by more than `threshold`, relative to their best.

    Any improving member restarts the patience of all (Janner et al.'s code; Pineda et al. 2021).
    """
    improved = score < progress.best_score * (1.0 - threshold)

    def choose(new: chex.Array, old: chex.Array) -> chex.Array:
        return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return Progress(
        best_params=jax.tree.map(choose, params, progress.best_params),
        best_score=jnp.where(improved, score, progress.best_score),
        stale_epochs=jnp.where(improved.any(), 0, progress.stale_epochs + 1),
    )


def holdout_errors(
    ensemble: Ensemble,
    params: chex.ArrayTree,
    normalizers: Normalizers,
    replay: ReplayState,
    split: Split,
) -> dict[str, chex.Array]:
    """Scores every member on the held-out rows.

    Returns, each [E] and averaged over rows and target dimensions: "mse" in raw units (what early
    stopping and elites use), "nll" (see `gaussian_nll`), and two measures of the predicted
    variance: "z2", the mean squared error in predicted standard deviations, and "coverage90", the
    share of targets inside the central 90 % interval. A calibrated model has 1 and 0.9.
    """
    block = min(SCORING_BLOCK, split.holdout.shape[0])

    def score(index: chex.Array, totals: dict[str, chex.Array]) -> dict[str, chex.Array]:
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
        return {
            name: totals[name] + jnp.where(counted, value, 0.0).mean(axis=2).sum(axis=1)
            for name, value in values.items()
        }

    names = ("mse", "nll", "z2", "coverage90")
    totals = {name: jnp.zeros(ensemble.num_members) for name in names}
    blocks = -(-split.holdout_size // block)
    totals = jax.lax.fori_loop(0, blocks, score, totals)
    return {name: total / jnp.maximum(split.holdout_size, 1) for name, total in totals.items()}


def _random_order(key: chex.PRNGKey, capacity: int, size: chex.Array) -> chex.Array:
    """Returns a permutation [capacity] whose first `size` entries permute 0 .. size - 1.

    Only as much as the next power-of-two fraction of the capacity is sorted.
    """
    rank = jax.random.uniform(key, (capacity,))
    rank = jnp.where(jnp.arange(capacity) < size, rank, 2.0)
    lengths = [capacity >> halvings for halvings in range(6) if capacity >> halvings]

    def sort_first(length: int) -> Callable[[], chex.Array]:
        rest = jnp.arange(length, capacity)
        return lambda: jnp.concatenate([jnp.argsort(rank[:length]), rest]).astype(jnp.int32)

    fitting = sum((size <= length).astype(jnp.int32) for length in lengths)
    return jax.lax.switch(fitting - 1, [sort_first(length) for length in lengths])


def _fit_normalizers(
    replay: ReplayState, ensemble: Ensemble, normalize_targets: bool
) -> Normalizers:
    rows, valid = buffer.contents(replay)
    inputs = normalizer.fit(jnp.concatenate([rows.observation, rows.action], axis=-1), valid)
    if not normalize_targets:
        return Normalizers(inputs, normalizer.identity(ensemble.target_size))
    return Normalizers(inputs, normalizer.fit(ensemble.targets(rows), valid))


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
