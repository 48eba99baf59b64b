"""One step of a pair of flows, by hand, and the arithmetic of their bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

from flows.coupled import SMOOTHING_FORMS, donsker_varadhan, log_mean_exp, make_coupled, squashed
from flows.coupling import make_flow


def coupled(size, width, depth, num_layers, **overrides):
    """Coupled flows, trained by plain gradient descent at rate 1 unless told otherwise."""
    settings = {
        "optimizer": optax.sgd(1.0),
        "squash": (2.0, 2.0),
        "dv_weight": 1.0,
        "nll_weight": 1.0,
        "nll_only_steps": 0,
        "smoothing": 0.0,
        "smoothing_form": "gaussian",
    } | overrides
    flow = make_flow(
        size, kind="affine", num_layers=num_layers, hidden_width=width, hidden_depth=depth
    )
    return make_coupled(flow, **settings)


# What one step does


@functools.cache
def tiny(**overrides):
    """Compiled functions of two small flows over three dimensions."""
    flows = coupled(3, width=8, depth=1, num_layers=2, **overrides)
    return flows._replace(**{name: jax.jit(function) for name, function in flows._asdict().items()})


def rows(seed, num=16, size=3):
    return jnp.float32(np.random.default_rng(seed).normal(seed, 1.0, size=(num, size)))


def scrambled(state, seed=0):
    """The state with both flows moved away from the identity."""
    rng = np.random.default_rng(seed)
    model, real = jax.tree.map(
        lambda leaf: leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape)),
        (state.model, state.real),
    )
    return state.replace(model=model, real=real)


def test_new_flows_agree_everywhere():
    flows = tiny()
    state = flows.init(jax.random.key(0))
    x = flows.log_ratio(state, rows(0))
    np.testing.assert_array_equal(x, np.zeros(16))
    assert donsker_varadhan(x, x) == pytest.approx(0.0, abs=1e-6)


def test_exchanging_the_flows_changes_the_sign():
    flows = tiny()
    state = scrambled(flows.init(jax.random.key(0)))
    x = flows.log_ratio(state, rows(0))
    assert jnp.abs(x).max() > 0.1
    exchanged = state.replace(model=state.real, real=state.model)
    np.testing.assert_allclose(flows.log_ratio(exchanged, rows(0)), -x, atol=1e-5)


def test_the_score_of_a_row_does_not_depend_on_its_batch():
    flows = tiny()
    state = scrambled(flows.init(jax.random.key(0)))
    alone = flows.log_ratio(state, rows(0))
    together = flows.log_ratio(state, jnp.concatenate([rows(0), 20.0 * rows(1)]))[:16]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2, 3])
def test_the_first_step_of_the_base_means_is_the_gradient_by_hand(steps):
    """At the identity d log p / d loc = z, and the squash has slope b / a = 0.4.

    The bound's term is on from step 3.
    """
    flows = tiny(squash=(15.0, 6.0), dv_weight=0.3, nll_weight=0.7, nll_only_steps=3)
    state = flows.init(jax.random.key(0)).replace(steps=jnp.int32(steps))
    model_z, real_z = rows(1, num=16), rows(2, num=8)
    new, metrics = flows.step(state, model_z, real_z, jax.random.key(1))
    model_mean, real_mean = (np.mean(np.asarray(z, np.float64), axis=0) for z in (model_z, real_z))
    pull = 0.3 * 0.4 * (model_mean - real_mean) * (steps >= 3)
    np.testing.assert_allclose(new.model["loc"], 0.7 * model_mean + pull, rtol=1e-4)
    np.testing.assert_allclose(new.real["loc"], 0.7 * real_mean - pull, rtol=1e-4)
    assert new.steps == steps + 1
    nll = [-norm.logpdf(np.asarray(z, np.float64)).sum(axis=1).mean() for z in (model_z, real_z)]
    assert metrics["flow/train_nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert metrics["flow/train_dv"] == pytest.approx(0.0, abs=1e-6)


def test_the_reported_bound_is_that_of_the_squashed_ratio():
    flows = tiny(squash=(1.5, 2.0))
    state = scrambled(flows.init(jax.random.key(0)))
    _, metrics = flows.step(state, rows(1), rows(2), jax.random.key(1))
    x_model, x_real = (
        2.0 * np.tanh(np.asarray(flows.log_ratio(state, z), np.float64) / 1.5)
        for z in (rows(1), rows(2))
    )
    by_hand = x_model.mean() - np.log(np.exp(x_real).mean())
    assert metrics["flow/train_dv"] == pytest.approx(by_hand, abs=1e-4)


def test_a_step_far_outside_the_data_stays_finite():
    flows = tiny(optimizer=optax.adam(2e-3))
    far = jnp.full((4, 3), 50.0)
    new, metrics = flows.step(
        scrambled(flows.init(jax.random.key(0))), far, -far, jax.random.key(1)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((new, metrics)))


def test_seeds_under_vmap_are_the_seeds_in_a_loop():
    flows = tiny(smoothing=0.1)
    keys = jax.random.split(jax.random.key(0), 3)

    def run(key):
        state, _ = flows.step(flows.init(key), rows(1), rows(2), key)
        return flows.log_ratio(state, 0.1 * rows(3))

    looped = np.stack([run(key) for key in keys])
    assert not np.allclose(looped[0], looped[1])
    np.testing.assert_allclose(jax.vmap(run)(keys), looped, rtol=1e-3, atol=1e-4)


def test_a_step_keeps_the_types_of_the_state():
    flows = tiny(optimizer=optax.adam(2e-3))
    state = jax.eval_shape(flows.init, jax.random.key(0))
    new, _ = jax.eval_shape(flows.step, state, rows(1), rows(2), jax.random.key(0))
    assert new == state
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(new))
    assert new.steps.dtype == jnp.int32


# Smoothing


@pytest.mark.parametrize("form", sorted(SMOOTHING_FORMS))
def test_no_smoothing_changes_nothing(form):
    z = rows(1)
    np.testing.assert_array_equal(SMOOTHING_FORMS[form](z, scale=0.0, key=jax.random.key(0)), z)


def test_gaussian_smoothing_adds_noise_of_its_scale():
    z = rows(1, num=20_000)
    noise = SMOOTHING_FORMS["gaussian"](z, scale=0.1, key=jax.random.key(0)) - z
    np.testing.assert_allclose(noise.mean(axis=0), np.zeros(3), atol=0.003)  # four standard errors
    np.testing.assert_allclose(noise.std(axis=0), np.full(3, 0.1), rtol=0.02)


def test_multiplicative_smoothing_is_uniform_around_the_value():
    z = jnp.broadcast_to(jnp.float32([0.0, -4.0]), (20_000, 2))
    noise = SMOOTHING_FORMS["multiplicative"](z, scale=0.5, key=jax.random.key(0)) - z
    reach = 0.25 * np.array([0.001, 3.999])
    for column in (0, 1):
        assert np.abs(noise[:, column]).max() == pytest.approx(reach[column], rel=1e-3)
        assert noise[:, column].std() == pytest.approx(reach[column] / np.sqrt(3.0), rel=0.02)


def test_both_sides_are_smoothed_with_noise_of_their_own():
    flows = tiny(dv_weight=0.0, smoothing=1.0)
    state, zeros = flows.init(jax.random.key(0)), jnp.zeros((16, 3))
    first, _ = flows.step(state, zeros, zeros, jax.random.key(1))
    again, _ = flows.step(state, zeros, zeros, jax.random.key(1))
    other, _ = flows.step(state, zeros, zeros, jax.random.key(2))
    assert (jnp.abs(first.model["loc"]) > 1e-3).all()
    assert (jnp.abs(first.model["loc"] - first.real["loc"]) > 1e-3).all()
    np.testing.assert_array_equal(first.model["loc"], again.model["loc"])
    assert (jnp.abs(first.model["loc"] - other.model["loc"]) > 1e-3).all()


def test_an_unknown_form_of_smoothing_is_named():
    with pytest.raises(ValueError, match=r"no smoothing form 'salt'.*gaussian, multiplicative"):
        tiny(smoothing_form="salt")


# The bound


def test_the_bound_counts_the_selected_rows_only():
    x_model = np.array([0.5, np.inf, -1.0, 2.0])
    x_real = np.array([0.1, -0.3, np.nan, 100.0, 1.0])
    model_mask = np.array([True, False, True, True])
    real_mask = np.array([True, True, False, False, True])
    by_hand = (0.5 - 1.0 + 2.0) / 3 - np.log((np.exp(0.1) + np.exp(-0.3) + np.exp(1.0)) / 3)
    got = donsker_varadhan(*map(jnp.asarray, (x_model, x_real, model_mask, real_mask)))
    assert got == pytest.approx(by_hand, rel=1e-6)
    everything = donsker_varadhan(jnp.float32([1.0, 2.0]), jnp.float32([0.0, np.log(3.0)]))
    assert everything == pytest.approx(1.5 - np.log(2.0), rel=1e-6)


def test_log_mean_exp_does_not_overflow_and_adding_a_constant_adds_it():
    x = jnp.float32([1.0, 2.0, 3.0])
    by_hand = np.log(np.mean(np.exp([1.0, 2.0, 3.0])))
    assert log_mean_exp(x) == pytest.approx(by_hand, rel=1e-6)
    assert log_mean_exp(x + 1_000.0) == pytest.approx(by_hand + 1_000.0, rel=1e-6)


def test_a_squash_has_slope_b_over_a_and_bound_b():
    assert squashed(jnp.float32(1e4), (15.0, 6.0)) == pytest.approx(6.0)
    assert jax.grad(lambda x: squashed(x, (15.0, 6.0)))(0.0) == pytest.approx(0.4)
    assert squashed(jnp.float32(3.0), (2.0, 2.0)) == pytest.approx(2.0 * np.tanh(1.5))
