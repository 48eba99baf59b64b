"""Refinement of models of a pendulum whose errors are known: what it repairs, and what it cannot.

Errors are root mean squares over both dimensions of the state after five steps of replayed actions,
in the units of the state; seeds are fixed.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flows import reward
from flows.diagnostics import open_loop_errors
from flows.estimator import make_estimator
from flows.reward import RefinementState, make_refinement
from flows.segments import model_segments, pool
from models.ensemble import gaussian_nll
from models.rollout import make_simulator
from tests.flows import toy

SETTINGS = {
    "flow.warmup_steps": (200, 100),
    "flow.batch_size": 256,
    "flow.refine_starts": 128,
    "flow.refine_learning_rate": 1e-3,
}
TINY = {
    "flow.num_layers": 2,
    "flow.hidden_width": 16,
    "flow.hidden_depth": 1,
    "flow.warmup_steps": (20, 20),
    "flow.batch_size": 64,
    "flow.refine_starts": 16,
    "flow.refine_steps": 10,
    "flow.flow_steps_per_refinement": 2,
    "flow.refine_learning_rate": 1e-3,
}
WEIGHT = 30.0  # of the reward
OFFSET = np.array([0.04, 0.15], np.float32)  # injected into the change of angle and speed
KEYS = dict(zip(("real", "test", "wide", "fit", "refine"), jax.random.split(jax.random.key(0), 5)))


@functools.cache
def real():
    return toy.episodes(KEYS["real"], 300)


@functools.cache
def held_out():
    return toy.segments(toy.episodes(KEYS["test"], 100))


@functools.cache
def wide():
    """What a likelihood fit has to explain as well: states that the policy does not visit."""
    return toy.episodes(KEYS["wide"], 300, toy.WIDE, toy.random_actions)


@functools.cache
def fitted_network():
    return toy.fit_network(toy.config(), KEYS["fit"], real(), steps=4_000)


def error(ensemble, model, segments=None):
    """The five-step error of the first member."""
    segments = held_out() if segments is None else segments
    errors = open_loop_errors(
        ensemble,
        model.params,
        model.normalizers,
        segments.transition,
        segments.valid,
        scale=jnp.ones(2),
    )
    return float(errors[0, -1])


class Refined(NamedTuple):
    """A refinement, and the flows it started from."""

    flows_before: Any
    state: RefinementState
    flows: Any
    model: Any
    metrics: dict


def make_refine(settings, ensemble):
    """Compiles the training of flows and the refinement after it."""
    parts = toy.parts_of(ensemble)
    estimator = make_estimator(settings, toy.SPEC)
    refinement = make_refinement(settings, parts, estimator)
    simulator = make_simulator(settings, parts)

    @jax.jit
    def refine(model, rl_weight, replay, segments, test, key):
        keys = jax.random.split(key, 5)
        generated = model_segments(simulator(model, ()), segments, keys[0])
        flows = estimator.standardize(estimator.init(keys[1]), segments)
        pools = (
            pool(estimator.inputs(flows, side.transition), side.valid)
            for side in (generated, segments)
        )
        flows, _ = estimator.train(flows, *pools, sum(settings.flow.warmup_steps), keys[2])
        state = RefinementState(rl_weight, refinement.init(keys[3]).term)
        context = toy.context_of(model.normalizers)
        refined = refinement.refine(state, flows, model, context, replay, segments, test, keys[4])
        return Refined(flows, *refined)

    def call(model, rl_weight=WEIGHT, replay=None, test=None, key=KEYS["refine"]):
        replay = toy.replay(real()) if replay is None else replay
        test = held_out() if test is None else test
        return refine(model, jnp.float32(rl_weight), replay, toy.segments(real()), test, key)

    return call


# --- the gate ------------------------------------------------------------------------------------


@functools.cache
def tiny(estimator="path"):
    """Settings, ensemble, compiled refinement, and a model of three members, two of them elites."""
    settings = toy.config(
        **TINY, model__num_members=3, model__num_elites=2, **{"flow.estimator": estimator}
    )
    ensemble = toy.linear(settings)
    model = toy.fit_linear(settings, real(), wide()).replace(elites=jnp.array([2, 0]))
    return ensemble, make_refine(settings, ensemble), model


def garbage():
    """A replay that teaches the anchor to predict the opposite of what happens."""
    transitions = real()
    change = transitions.next_observation - transitions.observation
    return toy.replay(transitions._replace(next_observation=transitions.observation - change))


def assert_rejected(refined, model):
    assert refined.metrics["refine/accepted"] == 0
    chex.assert_trees_all_equal(refined.model, model)
    chex.assert_trees_all_equal(refined.flows, refined.flows_before)


@pytest.mark.parametrize("estimator", ["path", "score", "ac"])
def test_the_reward_reaches_the_weights_of_the_model(estimator):
    _, refine, model = tiny(estimator)
    without, refined = refine(model, rl_weight=0.0), refine(model)
    assert refined.metrics["refine/grad_norm"] > 0
    for name in ("kernel", "bias"):
        difference = refined.model.params[name][0] - without.model.params[name][0]
        assert np.abs(difference).max() > 1e-4


def test_a_refinement_that_lowers_the_error_is_kept_together_with_its_flows():
    ensemble, refine, model = tiny()
    refined = refine(model, rl_weight=4.0)
    assert refined.metrics["refine/accepted"] == 1
    assert refined.state.rl_weight == 4.0
    assert refined.metrics["refine/rl_weight"] == 4.0
    assert refined.metrics["refine/steps"] == TINY["flow.refine_steps"]
    steps = refined.flows.joint.steps - refined.flows_before.joint.steps
    assert steps == TINY["flow.refine_steps"] * TINY["flow.flow_steps_per_refinement"]
    elites = jax.tree.map(lambda leaf: leaf[model.elites], refined.model.params)
    segments = held_out()
    errors = open_loop_errors(
        ensemble,
        elites,
        model.normalizers,
        segments.transition,
        segments.valid,
        scale=model.normalizers.inputs.std[:2],
    )
    found = [refined.metrics[f"refine/after_{k + 1}"] for k in range(toy.HORIZON)]
    np.testing.assert_allclose(found, errors.mean(axis=0), rtol=1e-5)


def test_only_the_elites_are_refined():
    _, refine, model = tiny()
    params = refine(model).model.params
    for name, before in model.params.items():
        np.testing.assert_array_equal(params[name][1], before[1])
    for elite in (0, 2):
        assert np.any(params["kernel"][elite] != model.params["kernel"][elite])
    assert np.any(params["kernel"][0] != params["kernel"][2])  # each from rollouts of its own


@pytest.mark.parametrize(("weight", "expected"), [(4.0, 2.0), (0.4, 0.3), (0.3, 0.3)])
def test_a_refinement_that_raises_the_error_is_undone_and_weighs_less_from_then_on(
    weight, expected
):
    _, refine, model = tiny()
    refined = refine(model, rl_weight=weight, replay=garbage())
    assert refined.metrics["refine/after_5"] > 1.02 * refined.metrics["refine/before_5"]
    assert_rejected(refined, model)
    assert refined.state.rl_weight == pytest.approx(expected)


def test_a_refinement_that_diverges_is_undone():
    _, refine, model = tiny()
    replay = toy.replay(real())
    refined = refine(model, replay=replay.replace(rows=jnp.nan * replay.rows))
    assert_rejected(refined, model)
    assert all(np.isfinite(value) for value in jax.tree.leaves(refined.metrics))


def test_without_held_out_segments_nothing_is_refined():
    _, refine, model = tiny()
    nothing = jnp.zeros(held_out().valid.shape, bool)
    refined = refine(model, test=held_out()._replace(valid=nothing, not_truncated=nothing))
    assert_rejected(refined, model)


# --- what it repairs -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "starts"), [("path", 128), ("score", 512)])
def test_an_injected_bias_is_removed_by_the_reward_alone(estimator, starts):
    changes = {
        "flow.estimator": estimator,
        "flow.refine_starts": starts,
        "flow.mle_weight": 0.0,
        "flow.refine_steps": 300,
    }
    settings = toy.config(**SETTINGS | changes)
    ensemble = toy.offset(settings, fitted_network())
    model = fitted_network().replace(params=ensemble.init(None) | {"offset": OFFSET[None]})
    assert error(ensemble, model) > 0.2
    refined = make_refine(settings, ensemble)(model).model
    assert np.all(np.abs(refined.params["offset"][0]) < 0.1 * OFFSET)
    assert error(ensemble, refined) < 0.05


def unanchored_error(inputs, monkeypatch):
    """Of a network with the same bias whose every weight follows the reward alone."""
    monkeypatch.setattr(reward, "PATIENCE", 10**6)  # it gets worse before it gets better
    changes = {
        "flow.inputs": inputs,
        "flow.mle_weight": 0.0,
        "flow.refine_steps": 400,
        "flow.gate_tolerance": 1e3,
    }
    settings = toy.config(**SETTINGS | changes)
    ensemble, model = toy.network(settings), fitted_network()
    params = jax.tree.map(lambda leaf: leaf, model.params)  # a copy of the dictionaries
    head = params["net"]["params"]["layer_2"]
    head["bias"] = head["bias"].at[:, :2].add(OFFSET)
    return error(ensemble, make_refine(settings, ensemble)(model.replace(params=params)).model)


@pytest.mark.long
def test_without_an_anchor_states_and_actions_alone_pair_outcomes_wrongly(monkeypatch):
    before = 0.249
    assert unanchored_error("sas", monkeypatch) < 0.5 * before
    assert unanchored_error("sa", monkeypatch) > before


def nll(ensemble, model):
    """Of held-out transitions, in nats and short of its constant."""
    rows = jax.tree.map(lambda x: x[None], toy.flat(held_out().transition))
    prediction = ensemble.predict(model.params, model.normalizers, rows.observation, rows.action)
    return float(0.5 * gaussian_nll(prediction, ensemble.targets(rows)).sum(axis=-1).mean())


@functools.cache
def refine_linear(inputs):
    """Ensemble, compiled refinement, and a linear model fitted far beyond the policy's states."""
    changes = {"flow.inputs": inputs, "flow.refine_steps": 400, "flow.warmup_steps": (1_000, 500)}
    settings = toy.config(**SETTINGS | changes | {"flow.gate_tolerance": 1e3})
    ensemble = toy.linear(settings)
    model = toy.fit_linear(settings, real(), wide())
    replay = toy.replay(real(), wide())
    return ensemble, functools.partial(make_refine(settings, ensemble), model, replay=replay)


@functools.cache
def linear_error(inputs, rl_weight):
    """Five-step error and likelihood after refinement; with weight 0 it is likelihood alone."""
    ensemble, refine = refine_linear(inputs)
    model = refine(rl_weight=rl_weight).model
    return error(ensemble, model), nll(ensemble, model)


@pytest.mark.long
def test_a_model_that_cannot_be_right_everywhere_becomes_right_where_the_policy_goes():
    after, nll_after = linear_error("sas", WEIGHT)
    control, nll_control = linear_error("sas", 0.0)
    assert control > 0.15
    assert after < 0.6 * control
    assert nll_after < nll_control + 0.02  # one spread has to cover the other states as well


@pytest.mark.long
def test_states_and_actions_alone_repair_much_less_of_it():
    after, _ = linear_error("sa", WEIGHT)
    control, _ = linear_error("sas", 0.0)
    assert linear_error("sas", WEIGHT)[0] < after < 0.95 * control


@pytest.mark.slow
def test_a_model_that_is_already_right_stays_so():
    changes = {"flow.refine_steps": 300, "flow.refine_learning_rate": 3e-4}
    settings = toy.config(**SETTINGS | changes | {"flow.gate_tolerance": 1e3})
    ensemble, model = toy.network(settings), fitted_network()
    refined = make_refine(settings, ensemble)(model, rl_weight=10.0).model
    assert error(ensemble, refined) == pytest.approx(error(ensemble, model), rel=0.04)
