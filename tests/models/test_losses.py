"""The value-aware losses on the worked row of Q(s, .) = (1, -2) . s, and their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.objectives import losses

W = jnp.array([1.0, -2.0])
REAL, MODEL = jnp.array([1.0, 1.0]), jnp.array([0.5, 1.5])
REWARD, MODEL_REWARD = 0.2, 0.5


def value(state):
    return state @ W


def va(norm, model):
    return norm(losses.model_advantage(value(REAL), value(model)[None]))


@pytest.mark.parametrize(
    ("norm", "expected", "gradient"),
    [(losses.absolute, 1.5, (-1.0, 2.0)), (losses.squared, 2.25, (-3.0, 6.0))],
)
def test_model_advantage_and_its_gradient(norm, expected, gradient):
    result, slope = jax.value_and_grad(lambda model: va(norm, model))(MODEL)
    assert result == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(slope, gradient, rtol=1e-6)


def test_vagram_bounded_and_taylor():
    error = (REAL - MODEL)[None]
    assert losses.vagram_bounded(W, error) == pytest.approx(1.25, rel=1e-6)
    # the value is linear, so the expansion is exact and equals VAML
    assert losses.vagram_taylor(W, error) == pytest.approx(2.25, rel=1e-6)


def test_value_equivalence_has_the_reward_inside_the_square():
    difference = losses.bellman_difference(
        jnp.float32(REWARD),
        jnp.float32(0.9),
        value(REAL),
        jnp.float32([MODEL_REWARD]),
        jnp.float32([0.9]),
        value(MODEL)[None],
    )
    assert losses.squared(difference) == pytest.approx(1.1025, rel=1e-5)


@pytest.mark.parametrize("constant", [-3.0, 10.0])
def test_a_constant_added_to_the_value_changes_nothing(constant):
    def shifted(norm):
        return norm(losses.model_advantage(value(REAL) + constant, value(MODEL)[None] + constant))

    assert shifted(losses.absolute) == pytest.approx(1.5, rel=1e-5)
    assert shifted(losses.squared) == pytest.approx(2.25, rel=1e-5)


def test_scaling_the_value_scales_ma_l1_linearly_and_vaml_quadratically():
    m = losses.model_advantage(-3.0 * value(REAL), -3.0 * value(MODEL)[None])
    assert losses.absolute(m) == pytest.approx(3 * 1.5, rel=1e-6)
    assert losses.squared(m) == pytest.approx(9 * 2.25, rel=1e-6)


@pytest.mark.parametrize("samples", [2, 5])
def test_two_samples_and_more_make_the_square_unbiased(samples):
    # errors of mean 0.7 and standard deviation 2: (E error)^2 = 0.49, E error^2 = 4.49
    error = 0.7 + 2.0 * jax.random.normal(jax.random.key(samples), (samples, 400_000))
    estimate = losses.squared(error)
    standard_error = float(estimate.std()) / np.sqrt(estimate.size)
    assert abs(float(estimate.mean()) - 0.49) < 4 * standard_error
    assert standard_error < 0.02
    assert float(losses.squared(error[:1]).mean()) == pytest.approx(4.49, rel=0.02)


def test_the_unbiased_square_of_two_samples_is_their_product():
    assert losses.squared(jnp.array([3.0, -2.0])) == pytest.approx(-6.0)
    # by hand: (3 * -2 + 3 * 5 + -2 * 5) / 3
    assert losses.squared(jnp.array([3.0, -2.0, 5.0])) == pytest.approx(-1 / 3, rel=1e-5)


def test_norms_are_clipped_to_the_quantile_by_hand():
    lengths = np.array([1.0, 2.0, 3.0, 10.0])
    vectors = np.stack([lengths * 0.6, lengths * 0.8], axis=-1).astype(np.float32)
    clipped = losses.clip_norms(jnp.asarray(vectors), 2 / 3)  # the third of four: 3
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=-1), [1, 2, 3, 3], rtol=1e-5)
    np.testing.assert_allclose(clipped[:, 1] / clipped[:, 0], 0.8 / 0.6, rtol=1e-5)  # same way
    np.testing.assert_array_equal(losses.clip_norms(jnp.zeros((4, 2)), 0.5), 0.0)
