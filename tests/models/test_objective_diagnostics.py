"""Diagnostics of a model objective against loops, worked numbers and degenerate cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mbpo
from experiment.metrics import first_non_finite
from models.ensemble import Prediction, make_ensemble
from models.objectives import OBJECTIVES, Context, Parts
from models.objectives.diagnostics import LARGEST_ERROR, make_diagnostics
from replay import Transition, buffer
from tests.integration import tiny
from tests.models.toy import toy_config, toy_model, toy_predict, toy_spec

NAMES = ("value_error_1", "value_error_5", "mle_cosine", "log_variance_steep", "log_variance_flat")
STEPS, MEMBERS, ROWS = 5, 3, 6


def linear_q(critics, observation, action):
    """Q_c = w_c . s + 10 a; the greedy action is 0."""
    return critics @ observation.T + 10.0 * action[None, :, 0]


def greedy(policy, observation):
    return jnp.zeros((*observation.shape[:-1], 1))


def noisy(policy, observation, key):
    noise = jax.random.normal(key, (*observation.shape[:-1], 1))
    return noise, noise[..., 0]


def value(context, critics, observation, key):
    return linear_q(critics, observation, greedy(None, observation)).min(axis=0)


def diagnose(
    model,
    segments,
    valid=None,
    *,
    weights=((1.0, 0.0),),
    objective="mle",
    threshold=jnp.inf,
    predict=toy_predict,
    rows=None,
    **fields,
):
    """The metrics without their prefix; the value is linear with the first of `weights`."""
    fixed = {"model.learn_variance_bounds": False, "objective.critic": "first"}
    config = toy_config(**{"model.objective": objective, **fixed, **fields})
    spec = toy_spec(threshold)
    ensemble = make_ensemble(config, spec)._replace(predict=predict)
    critics = jnp.float32(weights)
    parts = Parts(ensemble, spec, linear_q, None, noisy, greedy, lambda key: critics, value)
    context = Context((), critics, critics, jnp.zeros(()), model.normalizers)
    bounds = dict.fromkeys(("log_variance_min", "log_variance_max"), jnp.zeros((MEMBERS, 3)))
    made = OBJECTIVES[objective](config, parts)
    state = made.init(jax.random.key(1))
    model = model.replace(params=model.params | bounds, objective=state)
    valid = jnp.ones((len(segments.reward), STEPS), bool) if valid is None else valid
    run = jax.jit(make_diagnostics(config, parts, made))
    rows = batch() if rows is None else rows
    metrics = run(model, context, segments, valid, rows, jax.random.key(0))
    return {name.removeprefix("objective/"): float(value) for name, value in metrics.items()}


def transitions(*shape, seed):
    rng = np.random.default_rng(seed)
    draw = lambda *more: jnp.float32(rng.normal(size=(*shape, *more)))  # noqa: E731
    zeros = jnp.zeros(shape)
    return Transition(draw(2), draw(1), draw(), draw(2), zeros, zeros)


def batch():
    return transitions(MEMBERS, ROWS, seed=1)


def replayed(bias=0.0, starts=7):
    """Segments of the world that the toy model with delta = -bias describes."""
    rng = np.random.default_rng(2)
    observation = [rng.normal(size=(starts, 2))]
    action = rng.normal(size=(starts, STEPS, 1))
    for k in range(STEPS):
        change = np.concatenate([action[:, k] + bias, -0.5 * observation[-1][:, 1:]], axis=1)
        observation.append(observation[-1] + change)
    states = np.float32(np.stack(observation, axis=1))
    zeros = np.zeros((starts, STEPS), np.float32)
    real = Transition(states[:, :-1], np.float32(action), zeros, states[:, 1:], zeros, zeros)
    return jax.tree.map(jnp.asarray, real)


# --- the error of the value ----------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mle", "vagram"])
def test_a_constant_bias_adds_up_over_the_steps(objective):
    segments = replayed(bias=0.3)
    unit = np.std(3.0 * np.asarray(segments.observation[..., 0]))
    # the elites, 0 and 2, are off by 0.3 and by 0.5 a step
    metrics = diagnose(
        toy_model([0.0, 9.0, -0.2], [2, 0]),
        segments,
        weights=[[3.0, 0.0], [50.0, 50.0]],
        objective=objective,
    )
    assert metrics["value_error_1"] == pytest.approx(3.0 * 0.4 / unit, rel=1e-4)
    assert metrics["value_error_5"] == pytest.approx(5 * 3.0 * 0.4 / unit, rel=1e-4)


def test_only_steps_of_the_segment_count():
    segments = replayed(bias=0.3)
    valid = np.ones((7, STEPS), bool)
    valid[:4, 3:] = False
    valid[4, :] = False
    spoilt = jnp.where(valid[..., None], segments.next_observation, 1e3)
    spoilt = segments._replace(next_observation=spoilt)
    metrics = diagnose(toy_model([0.0] * 3, [0, 1]), spoilt, jnp.asarray(valid))
    unit = np.std(np.asarray(segments.observation[..., 0])[valid])
    assert metrics["value_error_1"] == pytest.approx(0.3 / unit, rel=1e-4)
    assert metrics["value_error_5"] == pytest.approx(1.5 / unit, rel=1e-4)


def test_terminations_end_the_value_on_either_side_unless_they_are_not_masked():
    segments = replayed()
    first = np.asarray(segments.next_observation[..., 0])
    threshold = float(np.quantile(first, 0.6))
    ended = np.cumsum(first > threshold, axis=1) > 0  # the model is exact and predicts the same
    unit = np.std(np.asarray(segments.observation[..., 0]))
    model = toy_model([0.0] * 3, [0, 1])
    unmasked = {"objective.mask_terminal": False}
    kept = diagnose(model, segments, threshold=threshold, **unmasked)
    assert kept["value_error_5"] == pytest.approx(0.0, abs=1e-5)
    predicted = diagnose(model, segments, threshold=threshold)  # the real world goes on
    for k in (1, STEPS):
        expected = np.where(ended[:, k - 1], np.abs(first[:, k - 1]), 0.0).mean() / unit
        assert predicted[f"value_error_{k}"] == pytest.approx(expected, rel=1e-4)
        assert 0 < ended[:, k - 1].mean() < 1
    last = segments._replace(terminated=segments.terminated.at[:, -1].set(1.0))
    real = diagnose(model, last)  # the model goes on
    assert real["value_error_5"] == pytest.approx(np.abs(first[:, -1]).mean() / unit, rel=1e-4)


def test_model_and_reality_are_valued_with_the_same_noise():
    exact = diagnose(toy_model([0.0] * 3, [0, 1]), replayed(), **{"objective.action": "sample"})
    assert exact["value_error_5"] == pytest.approx(0.0, abs=1e-5)


# --- the angle between the gradients -------------------------------------------------------------


def test_the_likelihood_agrees_with_itself():
    assert diagnose(toy_model([0.3, 0.1, -0.2], [0, 1], log_variance=-1.0), replayed())[
        "mle_cosine"
    ] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("objective", ["vaml", "vagram"])
def test_the_angle_to_the_likelihood_is_the_one_computed_by_hand(objective):
    deltas, log_variance = np.array([0.3, 0.1, -0.2]), -1.0
    rows = jax.tree.map(np.asarray, batch())
    change = rows.next_observation - rows.observation
    error = np.stack(
        [
            deltas[:, None] + rows.action[..., 0] - change[..., 0],
            -0.5 * rows.observation[..., 1] - change[..., 1],
            rows.observation[..., 0] - rows.reward,
        ],
        axis=-1,
    )
    precision = np.exp(-log_variance)
    # of the mean over rows and dimensions of error^2 / variance + log variance
    mle_delta = (2 * error[..., 0] * precision / 3).mean(axis=1)
    mle_log_variance = (1 - np.square(error) * precision).mean(axis=(1, 2))
    if objective == "vagram":  # of the mean of (w_0 error_0)^2 + ..., up to a factor
        own_delta = error[..., 0].mean(axis=1)
    else:  # of the mean of (w . error)^2
        own_delta = 2.0 * (error[..., :2] @ [2.0, -3.0]).mean(axis=1)
    expected = np.sign(own_delta) * mle_delta / np.hypot(mle_delta, mle_log_variance)
    options = {"objective.gradient_quantile": 1.0}
    metrics = diagnose(
        toy_model(deltas, [0, 1], log_variance),
        replayed(),
        weights=[[2.0, -3.0]],
        objective=objective,
        **options,
    )
    assert metrics["mle_cosine"] == pytest.approx(expected.mean(), rel=1e-4)


# --- the predicted variance ----------------------------------------------------------------------


def by_dimension(params, normalizers, observation, action):
    mean = toy_predict(params, normalizers, observation, action).mean
    return Prediction(mean, jnp.broadcast_to(params["variances"][:, None], mean.shape))


def test_variance_along_and_across_the_gradient():
    rows = batch()
    variances = np.float32([[-1.0, 2.0, 9.0], [-3.0, 4.0, 9.0], [0.5, -0.5, 9.0]])
    model = toy_model([0.0] * 3, [0, 1])
    model = model.replace(params=model.params | {"variances": jnp.asarray(variances)})
    metrics = diagnose(model, replayed(), weights=[[-3.0, 4.0]], predict=by_dimension, rows=rows)
    change = np.asarray(rows.next_observation - rows.observation).reshape(-1, 2)
    relative = variances[:, :2] - np.log(change.var(axis=0, ddof=1))
    steep = (relative @ [9 / 25, 16 / 25]).mean()
    assert metrics["log_variance_steep"] == pytest.approx(steep, rel=1e-4)
    flat = (relative @ [16 / 25, 9 / 25]).mean()
    assert metrics["log_variance_flat"] == pytest.approx(flat, rel=1e-4)
    ended = rows._replace(terminated=jnp.ones(rows.reward.shape))  # no gradient at all
    metrics = diagnose(model, replayed(), weights=[[-3.0, 4.0]], predict=by_dimension, rows=ended)
    assert metrics["log_variance_steep"] == pytest.approx(relative.mean(), rel=1e-4)
    assert metrics["log_variance_flat"] == pytest.approx(relative.mean(), rel=1e-4)


# --- degenerate cases and wiring -----------------------------------------------------------------


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_constant_value_gives_numbers(objective):
    metrics = diagnose(
        toy_model([0.3, 0.1, -0.2], [0, 1]),
        replayed(),
        weights=[[0.0, 0.0]],
        objective=objective,
        **{"objective.value_weight": 3.0},
    )
    assert set(metrics) == set(NAMES)
    assert first_non_finite([metrics]) is None
    assert metrics["value_error_5"] == 0
    assert metrics["log_variance_steep"] == pytest.approx(metrics["log_variance_flat"], rel=1e-5)
    if objective in ("ma_l1", "vaml", "vagram"):  # the model's own parameters leave no trace
        assert metrics["mle_cosine"] == 0


def test_the_scale_of_the_value_does_not_matter():
    options = {"objective.gradient_quantile": 1.0}
    tiny_value, value = (
        diagnose(
            toy_model([0.3, 0.1, -0.2], [0, 1]),
            replayed(bias=0.3),
            weights=[[2.0 * scale, scale]],
            objective="vagram",
            **options,
        )
        for scale in (1e-15, 1.0)
    )
    assert tiny_value == pytest.approx(value, rel=1e-3)


def test_without_segments_there_is_no_error_of_the_value():
    none = jnp.zeros((7, STEPS), bool)
    metrics = diagnose(toy_model([0.3] * 3, [0, 1]), replayed(), none)
    assert metrics["value_error_1"] == metrics["value_error_5"] == 0


@pytest.mark.parametrize("objective", ["mle", "vaml"])
@pytest.mark.parametrize("delta", [1e20, 3e38])
def test_diverged_predictions_give_numbers(objective, delta):
    metrics = diagnose(toy_model([delta] * 3, [0, 1]), replayed(), objective=objective)
    assert first_non_finite([metrics]) is None
    assert metrics["value_error_5"] == pytest.approx(LARGEST_ERROR)


@pytest.mark.parametrize("size", [1, 2])
def test_one_dimension_has_nothing_flat_beside_it(size):
    agent = mbpo.make_agent(tiny.config(), tiny.spec(observation_size=size))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    _, metrics = jax.eval_shape(agent.refresh[0].run, state)
    names = {name.removeprefix("objective/") for name in metrics if "objective/" in name}
    assert names == set(NAMES[: 3 + size])


def test_every_fit_reports_them():
    agent = mbpo.make_agent(tiny.config(model__objective="vagram"), tiny.spec())
    state = jax.jit(agent.init)(jax.random.key(0))
    rng = np.random.default_rng(4)
    draw = lambda *more: jnp.float32(rng.uniform(-1, 1, (100, *more)))  # noqa: E731
    rows = Transition(draw(3), draw(1), draw(), draw(3), jnp.zeros(100), jnp.zeros(100))
    replay = buffer.add_masked(state.replay, rows, jnp.ones(100, bool))
    state = state.replace(replay=replay)
    _, metrics = jax.jit(agent.refresh[0].run)(state)
    metrics = {name: float(value) for name, value in metrics.items()}
    assert {f"objective/{name}" for name in NAMES} <= set(metrics)
    assert first_non_finite([metrics]) is None
    assert 0 < abs(metrics["objective/mle_cosine"]) < 0.99
    assert metrics["objective/value_error_5"] > 0
