"""What the flows are worth: diagnostics on held-out real segments and fresh model segments."""

import chex
import jax.numpy as jnp
from ml_collections import ConfigDict

from flows import coupled, diagnostics
from flows.estimator import Estimator, FlowState
from flows.segments import Segments
from models.objectives import Parts
from models.training import ModelState
from replay import Transition

LARGEST_LOG_RATIO = 20.0  # nats; beyond it, a mean of density ratios is one outlier


def evaluate(
    config: ConfigDict,
    parts: Parts,
    estimator: Estimator,
    flows: FlowState,
    model: ModelState,
    real: Segments,
    generated: Segments,
    key: chex.PRNGKey,
) -> tuple[FlowState, chex.Array, dict[str, chex.Array]]:
    """Evaluates the flows on segments [N, H] they were not trained on; consumes `key`.

    Args:
      config: resolved configuration.
      parts: functions of the agent.
      estimator: the functions of the flows.
      flows: their state.
      model: what generated `generated`.
      real: held-out real segments.
      generated: model segments from the same first states.
      key: for the predictions whose true error is known.

    Returns:
      The flows with their centre fitted to the real rows, the centred scores [N H] of the generated
      rows, and metrics (each explained in docs/cf_mbpo.md), finite if the flows are. The bound on
      the return gap is among them only if the divergence covers the reward.
    """
    squash = config.flow.squash
    real_mask, model_mask = real.valid.reshape(-1), generated.valid.reshape(-1)

    def log_ratio(segments: Segments) -> chex.Array:
        z = estimator.inputs(flows, segments.transition)
        return jnp.where(segments.valid, estimator.log_ratio(flows, z), 0.0).reshape(-1)

    x_real, x_model = log_ratio(real), log_ratio(generated)
    flows = estimator.recentre(flows, x_real, real_mask)
    xt = estimator.clip_score(x_model) - flows.centre
    squashed = _divergence(
        coupled.squashed(x_model, squash), coupled.squashed(x_real, squash), model_mask, real_mask
    )
    plugin = jnp.where(model_mask, x_model, 0.0).sum() / jnp.maximum(model_mask.sum(), 1)
    kl = jnp.maximum(jnp.maximum(squashed, plugin), 0.0)
    gap, bound = _return_gap(real, generated, kl)
    metrics = {
        "flow/dv_heldout": squashed,
        "flow/dv_raw": _divergence(x_model, x_real, model_mask, real_mask),
        "flow/kl_plugin": plugin,
        "flow/calibration_real": diagnostics.median_of_means(_ratio(x_real), real_mask),
        "flow/calibration_model": diagnostics.median_of_means(_ratio(-x_model), model_mask),
        "flow/auc": diagnostics.auc(x_model, model_mask, x_real, real_mask),
        "flow/error_correlation": _error_correlation(parts, estimator, flows, model, real, key),
        "flow/return_gap": gap,
    }
    if estimator.sees_reward:
        metrics["flow/return_gap_bound"] = bound
    return flows, xt, metrics


def open_loop_error(
    parts: Parts, model: ModelState, params: chex.ArrayTree, real: Segments
) -> chex.Array:
    """Returns the root-mean-square error [H] of `params` [M, ...] when real actions are replayed.

    In units of the standard deviations of the real observations, averaged over the members.
    """
    scale = model.normalizers.inputs.std[: parts.spec.observation_size]
    return diagnostics.open_loop_errors(
        parts.ensemble, params, model.normalizers, real.transition, real.valid, scale
    ).mean(axis=0)


def _divergence(
    x_model: chex.Array, x_real: chex.Array, model_mask: chex.Array, real_mask: chex.Array
) -> chex.Array:
    """Returns the Donsker-Varadhan estimate [], 0 where one side has no row."""
    dv = coupled.donsker_varadhan(x_model, x_real, model_mask, real_mask)
    return jnp.where(model_mask.any() & real_mask.any(), dv, 0.0)


def _ratio(x: chex.Array) -> chex.Array:
    """Returns e^x, short of overflow."""
    return jnp.exp(jnp.clip(x, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def _return_gap(
    real: Segments, generated: Segments, kl_alive: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Model return minus real return over one segment, and what the divergence allows it to be.

    Undiscounted sums over H steps, so the weight of the bound is H. A segment that has terminated
    counts with reward 0, in a state of its own; steps after a truncation count on neither side.
    """

    def total(segments: Segments) -> chex.Array:
        return jnp.where(segments.valid, segments.transition.reward, 0.0).sum()

    open_steps = jnp.maximum(real.not_truncated.sum(), 1)
    segments = jnp.maximum(real.not_truncated[:, 0].sum(), 1)
    gap = (total(generated) - total(real)) / segments
    kl = diagnostics.kl_with_absorption(
        kl_alive, generated.valid.sum() / open_steps, real.valid.sum() / open_steps
    )
    rewards = jnp.stack(
        [jnp.where(side.valid, side.transition.reward, 0.0) for side in (real, generated)]
    )
    span = rewards.max() - rewards.min()  # 0, the reward after the end, included
    return gap, diagnostics.return_gap_bound(kl, span, open_steps / segments)


def _error_correlation(
    parts: Parts,
    estimator: Estimator,
    flows: FlowState,
    model: ModelState,
    real: Segments,
    key: chex.PRNGKey,
) -> chex.Array:
    """Spearman correlation of the score with the true error of one-step predictions.

    At the real states and actions, every elite predicts an equal share of the rows.
    """
    elites = model.elite_params()
    num_elites = model.elites.shape[0]
    rows = real.valid.size // num_elites * num_elites

    def share(x: chex.Array) -> chex.Array:
        return x.reshape(real.valid.size, -1)[:rows].reshape(num_elites, rows // num_elites, -1)

    truth: Transition = real.transition
    observation, action = share(truth.observation), share(truth.action)
    prediction = parts.ensemble.predict(elites, model.normalizers, observation, action)
    next_observation, reward = parts.ensemble.decode(observation, action, prediction.sample(key))
    expected = Transition(
        observation,
        action,
        share(truth.reward)[..., 0],
        share(truth.next_observation),
        jnp.zeros(reward.shape),
        jnp.zeros(reward.shape),
    )
    predicted = expected._replace(reward=reward, next_observation=next_observation)
    z, z_true = estimator.inputs(flows, predicted), estimator.inputs(flows, expected)
    error = jnp.square(z - z_true).sum(axis=-1)
    score = estimator.score(flows, z)
    return diagnostics.spearman(score.reshape(-1), error.reshape(-1), share(real.valid).reshape(-1))
