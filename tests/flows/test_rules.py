"""The one-nat cut and importance weights, on scores whose densities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from flows import rules


def quantiles(cdf, count, low=-12.0, high=15.0):
    """A sample [count] with the smallest possible error: the midpoints of equal probabilities."""
    grid = np.linspace(low, high, 200_001)
    return np.interp((np.arange(count) + 0.5) / count, cdf(grid), grid)


def mixture_scores(clean, shift, count=40_000):
    """Model clean N(0, 1) + (1 - clean) N(shift, 1), reality N(0, 1); and P(clean | z) [count]."""
    z = quantiles(lambda z: clean * norm.cdf(z) + (1 - clean) * norm.cdf(z, shift), count)
    ratio = clean + (1 - clean) * np.exp(shift * z - shift**2 / 2)
    return np.log(ratio), clean / ratio


def threshold(xt, mask=None, min_kept=0.0):
    xt = jnp.asarray(xt, jnp.float32)
    mask = jnp.ones(xt.shape, bool) if mask is None else jnp.asarray(mask)
    return jax.jit(rules.one_nat_threshold, static_argnums=2)(xt, mask, min_kept)


def brute_force(xt, min_kept):
    """The best (tau, f, KL) over every cut that is one of the scores, in float64."""
    cuts = []
    for tau in xt:
        below = xt <= tau
        if below.mean() >= min_kept:
            cuts.append((xt[below].mean() - np.log(below.mean()), tau, below.mean()))
    kl, tau, kept = min(cuts)
    return tau, kept, kl


@pytest.mark.parametrize(
    ("clean", "shift", "before", "after", "kept", "purity"),
    [(0.5, 2.0, 0.6632, 0.1276, 0.6278, 0.746), (0.7, 3.0, 0.8891, 0.0380, 0.7324, 0.9345)],
)
def test_threshold_of_gaussian_mixtures_found_by_quadrature(
    clean, shift, before, after, kept, purity
):
    xt, clean_share = mixture_scores(clean, shift)
    everything, cut = threshold(xt, min_kept=1.0), threshold(xt)
    np.testing.assert_allclose(everything.kl, before, atol=2e-4)
    np.testing.assert_allclose(cut.kl, after, atol=2e-4)
    np.testing.assert_allclose(cut.kept, kept, atol=2e-3)
    np.testing.assert_allclose(clean_share[xt <= float(cut.tau)].mean(), purity, atol=2e-3)


@pytest.mark.parametrize(("clean", "shift"), [(0.5, 2.0), (0.7, 3.0)])
def test_the_cut_is_one_nat_above_the_average_kept_score(clean, shift):
    xt, _ = mixture_scores(clean, shift)
    tau = float(threshold(xt).tau)
    assert tau - xt[xt <= tau].mean() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("min_kept", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_threshold_equals_a_brute_force_search_with_ties(min_kept):
    rng = np.random.default_rng(0)
    xt = np.float32(np.round(rng.normal(scale=3.0, size=200), 0))  # whole numbers: many ties
    cut = threshold(xt, min_kept=min_kept)
    np.testing.assert_allclose(tuple(cut), brute_force(np.float64(xt), min_kept), rtol=1e-5)
    assert (xt <= cut.tau).mean() == pytest.approx(float(cut.kept))


def test_threshold_by_hand():
    cut = threshold([5.0, 0.0, 5.0, 0.0])  # half of the rows at 0: log 2; all of them: 2.5
    np.testing.assert_allclose(tuple(cut), (0.0, 0.5, np.log(2)), rtol=1e-6)
    cut = threshold([0.5, 0.0, 0.5, 0.0])  # half: log 2; all: 0.25
    np.testing.assert_allclose(tuple(cut), (0.5, 1.0, 0.25), rtol=1e-6)


def test_the_floor_binds_and_one_keeps_everything():
    xt = np.arange(10.0)[::-1] * 4.0  # the unrestricted cut keeps a single row
    assert float(threshold(xt).kept) == pytest.approx(0.1)
    floored = threshold(xt, min_kept=0.5)
    np.testing.assert_allclose(tuple(floored), (16.0, 0.5, 8.0 + np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(tuple(threshold(xt, min_kept=1.0)), (36.0, 1.0, 18.0), rtol=1e-6)


@pytest.mark.parametrize("count", [10, 200, 30_000])
@pytest.mark.parametrize("min_kept", [0.1, 0.3, 0.6, 0.7, 0.9, 1.0])
def test_the_floor_admits_exactly_its_own_fraction(count, min_kept):
    """Steep scores call for keeping less than any of these; rounding must not shift the floor."""
    xt = np.arange(count) * (40.0 / count)
    kept = (xt <= threshold(xt, min_kept=min_kept).tau).sum()
    assert kept == round(min_kept * count)


@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, -1e9])
def test_rows_outside_the_mask_do_not_matter(filler):
    rng = np.random.default_rng(1)
    xt, mask = np.float32(rng.normal(size=64)), rng.random(64) < 0.6
    alone = threshold(xt[mask], min_kept=0.4)
    among = threshold(np.where(mask, xt, filler), mask, min_kept=0.4)
    np.testing.assert_allclose(tuple(among), tuple(alone), rtol=1e-6)


def test_nothing_is_rejected_when_there_is_no_row():
    cut = threshold([np.nan, 1.0, -np.inf], [False] * 3, min_kept=0.5)
    np.testing.assert_allclose(tuple(cut), (rules.KEEP_ALL, 1.0, 0.0))


def test_importance_weights_are_capped_ratios():
    weights = rules.importance_weights(jnp.asarray([0.0, 1.0, -1.0, -200.0]), 5.0)
    np.testing.assert_allclose(weights, [1.0, np.exp(-1), np.exp(1), 5.0], rtol=1e-6)


def test_the_weight_of_the_worst_row_is_negligible_but_not_zero():
    assert 0.0 < rules.importance_weights(jnp.asarray([200.0]), 5.0)[0] < 1e-6


@pytest.mark.parametrize(
    # Of log w ~ N(-1/2, 1): e^-1, and with weights above 5 cut off, from the normal distribution.
    ("cap", "expected"),
    [(np.inf, np.exp(-1)), (5.0, 0.475173)],
)
def test_effective_sample_size_of_gaussians_at_distance_one(cap, expected):
    z = np.random.default_rng(0).normal(1.0, 1.0, 100_000)
    weights = rules.importance_weights(jnp.float32(z - 0.5), cap)
    size = rules.effective_sample_size(weights, jnp.ones(z.shape, bool))
    assert float(size) == pytest.approx(expected, abs=0.03)


def test_effective_sample_size_by_hand():
    weights = jnp.asarray([1.0, 2.0, 3.0, jnp.nan])
    mask = jnp.asarray([True, True, True, False])
    size = jax.jit(rules.effective_sample_size)
    np.testing.assert_allclose(size(weights, mask), 36 / 14 / 3, rtol=1e-6)
    np.testing.assert_allclose(size(weights * 1e-30, mask), 36 / 14 / 3, rtol=1e-6)
    np.testing.assert_allclose(size(jnp.full(4, 0.3), mask), 1.0, rtol=1e-6)


def test_effective_sample_size_without_weight_is_zero():
    none, some = jnp.zeros(3, bool), jnp.ones(3, bool)
    assert float(rules.effective_sample_size(jnp.full(3, jnp.nan), none)) == 0.0
    assert float(rules.effective_sample_size(jnp.zeros(3), some)) == 0.0


def test_results_are_strongly_typed_float32():
    xt, mask = jnp.zeros(4), jnp.ones(4, bool)
    weights = rules.importance_weights(xt, 5.0)
    results = (*threshold(xt), weights, rules.effective_sample_size(weights, mask))
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in results)
