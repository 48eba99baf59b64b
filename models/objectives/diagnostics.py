"""How a fitted model serves the value function, whatever objective it was fitted with."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from models import normalizer
from models.objectives import mle
from models.objectives.base import Context, ModelObjective, Parts
from models.objectives.values import critics_in, make_value
from models.open_loop import open_loop, terminations
from models.training import ModelState
from replay import Transition

LARGEST_ERROR = 1e6  # in standard deviations of V: what a diverged prediction counts as

Diagnose = Callable[
    [ModelState, Context, Transition, chex.Array, Transition, chex.PRNGKey], dict[str, chex.Array]
]
"""`(model, context, segments [N, H, ...], valid [N, H], batch [E, B, ...], key) -> metrics`."""


def make_diagnostics(config: ConfigDict, parts: Parts, objective: ModelObjective) -> Diagnose:
    """Builds the diagnostics of one model objective.

    Args:
      config: resolved configuration; its block `objective` says what V is.
      parts: functions of the agent.
      objective: what the model is fitted with.

    Returns:
      A function of the fitted model, the rest of the agent, real segments of H steps (`valid` is a
      prefix of each), a batch of real rows for every member, and a key, which it consumes. Its
      metrics are finite if the model and the value are:

      "objective/value_error_<k>", k = 1 and H: |V(model's s_k) - V(s_k)| after k replayed actions,
        mean over elites and segments, in standard deviations of V over the real states; 0 without
        a segment of that length.
      "objective/mle_cosine": of the gradients of the likelihood and of the objective, mean over
        members; 0 where one of them vanishes.
      "objective/log_variance_steep", "..._flat": predicted log-variance, relative to that of the
        target, along and across dV/ds' at the real next state (`_along_and_across`).
    """
    value = make_value(config, parts, discounted=False)
    likelihood = mle.make(config, parts)

    def diagnose(
        model: ModelState,
        context: Context,
        segments: Transition,
        valid: chex.Array,
        batch: Transition,
        key: chex.PRNGKey,
    ) -> dict[str, chex.Array]:
        value_key, gradient_key = jax.random.split(key)

        def v(observation: chex.Array) -> chex.Array:
            return value(critics_in(context, config), context, observation, value_key)

        metrics = value_errors(model, v, segments, valid)
        metrics["mle_cosine"] = mle_cosine(model, context, batch, gradient_key)
        metrics |= log_variances(model, v, batch)
        return {f"objective/{name}": metric for name, metric in metrics.items()}

    def value_errors(
        model: ModelState,
        v: Callable[[chex.Array], chex.Array],
        segments: Transition,
        valid: chex.Array,
    ) -> dict[str, chex.Array]:
        start, actions = segments.observation[:, 0], segments.action
        predicted, _ = open_loop(
            parts.ensemble, model.elite_params(), model.normalizers, start, actions
        )  # [H, K, N, O]
        ended = terminations(parts.spec, start, actions, predicted)
        predicted_alive = alive(ended.astype(jnp.float32))
        predicted_alive = jnp.cumprod(predicted_alive, axis=0)  # the state after the end stays
        unit = _std(v(segments.observation), valid)

        def error(step: int) -> chex.Array:
            reached, counted = segments.next_observation[:, step], valid[:, step]
            v_t = alive(segments.terminated[:, step]) * v(reached)
            predicted_v_t = predicted_alive[step] * jax.vmap(v)(predicted[step])  # same noise
            errors = jnp.fmin(jnp.abs(predicted_v_t - v_t[None]) / unit, LARGEST_ERROR)
            total = jnp.where(counted[None], errors, 0.0).mean(axis=0).sum()
            return total / jnp.maximum(counted.sum(), 1)

        return {f"value_error_{k}": error(k - 1) for k in (1, valid.shape[1])}

    def mle_cosine(
        model: ModelState, context: Context, batch: Transition, key: chex.PRNGKey
    ) -> chex.Array:
        def gradient(objective: ModelObjective, state) -> chex.Array:
            loss = jax.grad(objective.loss, has_aux=True)
            return _rows(loss(model.params, state, batch, context, key)[0])

        return _cosine(gradient(likelihood, ()), gradient(objective, model.objective)).mean()

    def log_variances(
        model: ModelState, v: Callable[[chex.Array], chex.Array], batch: Transition
    ) -> dict[str, chex.Array]:
        size = parts.spec.observation_size
        prediction = parts.ensemble.predict(
            model.params, model.normalizers, batch.observation, batch.action
        )
        targets = parts.ensemble.targets(batch)
        rows = targets.reshape(-1, targets.shape[-1])
        std = normalizer.fit(rows, jnp.ones(len(rows), bool)).std
        relative = (prediction.log_variance - 2.0 * jnp.log(std[None, None]))[..., :size]
        gradient = jax.grad(lambda observation: v(observation).sum())(batch.next_observation)
        gradient = alive(batch.terminated)[..., None] * gradient
        steep, flat = _along_and_across(gradient, relative)
        metrics = {"log_variance_steep": steep}
        return metrics if size == 1 else metrics | {"log_variance_flat": flat}

    def alive(terminated: chex.Array) -> chex.Array:
        """1 where a state has a value, as the objectives see it."""
        return 1.0 - terminated if config.objective.mask_terminal else jnp.ones(terminated.shape)

    return diagnose


def _std(values: chex.Array, mask: chex.Array) -> chex.Array:
    """Returns the standard deviation [] of the masked values; 1 where they do not differ."""
    count = jnp.maximum(mask.sum(), 1)
    mean = jnp.where(mask, values, 0.0).sum() / count
    std = jnp.sqrt(jnp.where(mask, jnp.square(values - mean), 0.0).sum() / count)
    return jnp.where(std > 0, std, 1.0)


def _along_and_across(
    gradient: chex.Array, log_variance: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Averages log-variances l [E, B, O] with weights that follow a gradient g [E, B, O].

    With w_d = g_d^2 / sum g^2, the first is the mean over rows of sum_d w_d l_d and the second that
    of sum_d (1 - w_d) l_d / (O - 1). Where the gradient vanishes, every dimension weighs the same.
    """
    size = gradient.shape[-1]
    squares = jnp.square(gradient / _largest(gradient))
    total = squares.sum(axis=-1, keepdims=True)
    weight = jnp.where(total > 0, squares / jnp.where(total > 0, total, 1.0), 1.0 / size)
    along = (weight * log_variance).sum(axis=-1).mean()
    across = ((1.0 - weight) * log_variance).sum(axis=-1).mean() / max(size - 1, 1)
    return along, across


def _cosine(a: chex.Array, b: chex.Array) -> chex.Array:
    """Returns the cosines [E] of the rows of a and b [E, P]; 0 where one vanishes or overflows."""
    a, b = a / _largest(a), b / _largest(b)
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(axis=-1) / jnp.where(norms > 0, norms, 1.0)
    return jnp.where(jnp.isfinite(cosine), cosine, 0.0)


def _largest(x: chex.Array) -> chex.Array:
    """Returns max |x| [..., 1] over the last axis, or 1 if 0: a scale at which squares are safe."""
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    return jnp.where(largest > 0, largest, 1.0)


def _rows(tree: chex.ArrayTree) -> chex.Array:
    """Flattens a tree of leaves [E, ...] to [E, P]."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
