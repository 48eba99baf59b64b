"""Z-scoring against numpy in double precision."""

import jax.numpy as jnp
import numpy as np
import pytest

from models import normalizer


def test_statistics_of_the_masked_rows_are_numpys_even_at_a_large_offset():
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 0.1, 30.0])
    x = (1e4 + scales * rng.normal(size=(3_000, 3))).astype(np.float32)
    mask = rng.random(3_000) < 0.6
    x[~mask] = -7e5  # must not count
    fitted = normalizer.fit(jnp.asarray(x), jnp.asarray(mask))
    kept = x[mask].astype(np.float64)
    np.testing.assert_allclose(fitted.mean, kept.mean(axis=0), rtol=1e-6)  # float32: 1e-3 of 1e4
    np.testing.assert_allclose(fitted.std, kept.std(axis=0, ddof=1), rtol=1e-3)


def test_two_rows_have_the_unbiased_deviation():
    fitted = normalizer.fit(jnp.array([[1.0], [4.0]]), jnp.ones(2, bool))
    np.testing.assert_allclose(fitted.mean, [2.5])
    np.testing.assert_allclose(fitted.std, [3.0 / np.sqrt(2.0)], rtol=1e-6)  # not 1.5


@pytest.mark.parametrize("constant", [0.0, 0.1, -0.7, 12345.678, 1e-3])
@pytest.mark.parametrize("rows", [2, 1_000, 50_000])
def test_a_constant_dimension_gets_std_one(constant, rows):
    fitted = normalizer.fit(jnp.full((rows, 1), constant), jnp.ones(rows, bool))
    np.testing.assert_allclose(fitted.mean, [constant], rtol=1e-6)
    np.testing.assert_array_equal(fitted.std, [1.0])


def test_a_single_row_is_its_own_mean_with_std_one():
    fitted = normalizer.fit(jnp.array([[3.0, -4.0], [9.0, 9.0]]), jnp.array([True, False]))
    np.testing.assert_allclose(fitted.mean, [3.0, -4.0])
    np.testing.assert_allclose(fitted.std, [1.0, 1.0])


def test_no_rows_give_the_identity():
    fitted = normalizer.fit(jnp.full((4, 2), 5.0), jnp.zeros(4, bool))
    np.testing.assert_array_equal(fitted.mean, [0.0, 0.0])
    np.testing.assert_array_equal(fitted.std, [1.0, 1.0])


def test_normalize_subtracts_the_mean_and_divides_by_std():
    statistics = normalizer.Normalizer(jnp.array([1.0, -2.0]), jnp.array([2.0, 0.5]))
    normalized = statistics.normalize(jnp.array([[[5.0, -1.0]]]))
    np.testing.assert_array_equal(normalized, [[[2.0, 2.0]]])


def test_denormalize_undoes_normalize():
    rng = np.random.default_rng(1)
    statistics = normalizer.Normalizer(
        jnp.float32(rng.normal(size=4)), jnp.float32(rng.uniform(0.1, 3.0, 4))
    )
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    back = statistics.denormalize(statistics.normalize(jnp.asarray(x)))
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_the_identity_changes_nothing():
    x = jnp.array([[1.5, -2.5]])
    np.testing.assert_array_equal(normalizer.identity(2).normalize(x), x)
