"""Gradient steps on the ensemble, and what is brought up to date between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from models import normalizer
from models.ensemble import Ensemble, Normalizers, with_dropout
from models.objectives import Context, LossOutput, ModelObjective
from replay import Transition

NEVER = jnp.iinfo(jnp.int32).max  # more gradient steps than a fit ever takes
DROPOUT_KEY = NEVER  # folded into the key of a gradient step, which an objective splits into a few


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


NO_REFIT = Refit(NEVER, lambda model, learner, context, count, key: (learner, context))


class Trained(NamedTuple):
    """What gradient steps hand on within one fit."""

    model: ModelState  # its elites are those of the fit before
    averaged: chex.ArrayTree | None  # moving mean of the parameters, if `model.averaging`
    learner: Any  # what a `Refit` refits
    context: Context
    steps: chex.Array  # int32 [], gradient steps done
    metrics: dict[str, chex.Array]  # of the last gradient step

    @property
    def params(self) -> chex.ArrayTree:
        """The parameters this leads to, leading axis E."""
        return self.model.params if self.averaged is None else self.averaged


class Training(NamedTuple):
    """The functions of training one ensemble.

    Attributes:
      init: `(key) -> ModelState`.
      step: `(ModelState, batch [E, B, ...], Context, key) -> (ModelState, metrics)`, one gradient
        step.
      start: `(ModelState, learner, Context, example of a batch) -> Trained`, without a step.
      advance: `(Trained, end, batch_at, key) -> Trained`: gradient steps up to number `end` on the
        batches `batch_at(step)` [E, B, ...], and the refits that are due. Consumes `key`.
    """

    init: Callable[[chex.PRNGKey], ModelState]
    step: Callable[..., tuple[ModelState, dict[str, chex.Array]]]
    start: Callable[[ModelState, Any, Context, Transition], Trained]
    advance: Callable[..., Trained]


def make_training(
    config: ConfigDict, ensemble: Ensemble, objective: ModelObjective, refit: Refit
) -> Training:
    """Builds the training of a resolved configuration (its `model` block)."""
    optimizer = _optimizer(config)

    def init(key: chex.PRNGKey) -> ModelState:
        params_key, objective_key = jax.random.split(key)
        params = ensemble.init(params_key)
        return ModelState(
            params=params,
            normalizers=Normalizers(
                normalizer.identity(ensemble.input_size), normalizer.identity(ensemble.target_size)
            ),
            elites=jnp.arange(ensemble.num_members)[: config.model.num_elites],
            optimizer=optimizer.init(params),
            objective=objective.init(objective_key),
        )

    def gradient_step(
        model: ModelState, batch: Transition, context: Context, key: chex.PRNGKey
    ) -> tuple[ModelState, dict[str, chex.Array]]:
        def loss(params: chex.ArrayTree) -> LossOutput:
            if config.model.dropout:
                params = with_dropout(params, jax.random.fold_in(key, DROPOUT_KEY))
            return objective.loss(params, model.objective, batch, context, key)

        grads, (objective_state, metrics) = jax.grad(loss, has_aux=True)(model.params)
        updates, opt_state = optimizer.update(grads, model.optimizer, model.params)
        params = optax.apply_updates(model.params, updates)
        return model.replace(params=params, optimizer=opt_state, objective=objective_state), metrics

    decay = config.model.averaging

    def average(mean: chex.ArrayTree | None, params: chex.ArrayTree) -> chex.ArrayTree | None:
        return None if mean is None else optax.incremental_update(params, mean, 1.0 - decay)

    def start(model: ModelState, learner: Any, context: Context, example: Transition) -> Trained:
        _, metrics = jax.eval_shape(gradient_step, model, example, context, jax.random.key(0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)
        averaged = model.params if decay else None
        return Trained(model, averaged, learner, context, jnp.zeros((), jnp.int32), zeros)

    def advance(
        trained: Trained,
        end: chex.Array,
        batch_at: Callable[[chex.Array], Transition],
        key: chex.PRNGKey,
    ) -> Trained:
        def to_next_refit(trained: Trained) -> Trained:
            def minibatch(step: chex.Array, state: tuple) -> tuple:
                step_own_key = jax.random.fold_in(key, step)
                model, metrics = gradient_step(
                    state[0], batch_at(step), trained.context, step_own_key
                )
                return model, average(state[1], model.params), metrics

            refits = trained.steps // refit.interval
            stop = jnp.minimum((refits + 1) * refit.interval, end)
            model, averaged, metrics = jax.lax.fori_loop(
                trained.steps, stop, minibatch, (trained.model, trained.averaged, trained.metrics)
            )
            reached = trained._replace(model=model, averaged=averaged, steps=stop, metrics=metrics)
            refit_key = jax.random.fold_in(key, NEVER - stop)
            learner, context = jax.lax.fori_loop(  # once or not at all
                0,
                (stop % refit.interval == 0).astype(jnp.int32),
                lambda _, state: refit.run(
                    model.replace(params=reached.params), state[0], state[1], refits, refit_key
                ),
                (trained.learner, trained.context),
            )
            return reached._replace(learner=learner, context=context)

        return jax.lax.while_loop(lambda trained: trained.steps < end, to_next_refit, trained)

    return Training(init, gradient_step, start, advance)


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    hyper = config.model
    decay = _weight_decay(hyper.weight_decay, hyper.hidden_depth)
    if hyper.decoupled_decay:  # AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101
        parts = [optax.scale_by_adam(), decay, optax.scale_by_learning_rate(hyper.learning_rate)]
    else:
        parts = [decay, optax.adam(hyper.learning_rate)]
    if hyper.max_grad_norm:
        parts.insert(0, optax.clip_by_global_norm(hyper.max_grad_norm))  # of all members together
    return optax.chain(*parts)


def _weight_decay(
    coefficients: tuple[float, ...], hidden_depth: int
) -> optax.GradientTransformation:
    """Adds so many times the weight matrices, one coefficient per layer (or one for all)."""
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
