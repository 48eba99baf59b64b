import itertools
import sys

import numpy as np
import pytest
import scipy.stats

from analysis import statistics
from analysis.statistics import t_interval

REPETITIONS = 500  # of a simulated study; the standard error of a coverage of 95 % is then 1 %
FAIL, SUCCEED = 500.0, 3000.0  # returns of a task that a fifth of the seeds does not learn


@pytest.fixture(params=["rliable", "scipy"])
def each_engine(request, monkeypatch):
    if request.param == "scipy":
        use_scipy(monkeypatch)
    elif statistics._rliable() is None:
        pytest.skip("rliable cannot be imported here")
    return request.param


@pytest.fixture
def quick(monkeypatch):
    use_scipy(monkeypatch)
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)


def use_scipy(monkeypatch):
    monkeypatch.setattr(statistics, "_rliable", lambda: None)


def normal(shape):
    return np.random.default_rng(7).normal(size=shape)


def often_failing(shape):
    rng = np.random.default_rng(7)
    returns = np.where(rng.random(shape) < 0.2, FAIL, SUCCEED)
    return returns + 250 * rng.normal(size=shape)


def coverage(estimate, truth):
    return np.mean((estimate.low <= truth) & (truth <= estimate.high))


def test_interval_is_student_t_over_the_last_axis():
    # By hand: mean 2, standard deviation 1, n = 3, and the tabulated quantile t(0.975, 2) = 4.3027.
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    values = np.random.default_rng(0).normal(size=(4, 7))
    low, high = scipy.stats.t.interval(
        0.95, df=6, loc=values.mean(axis=1), scale=scipy.stats.sem(values, axis=1)
    )
    np.testing.assert_allclose(t_interval(values), (high - low) / 2, rtol=1e-12)


def test_one_seed_has_no_interval():
    assert np.isnan(t_interval(np.zeros((4, 1)))).all()


def test_student_t_interval_of_five_seeds_holds_the_mean_in_95_percent_of_studies():
    values = normal((REPETITIONS, 5))
    held = np.abs(values.mean(axis=1)) <= t_interval(values)
    assert held.mean() == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # 3, 4, 5 and 6 remain of eight
        ([0, 1, 2, 3, 100], 2.0),  # a quarter of five, rounded down, is one
        ([0, 1, 5], 2.0),
    ],
)
def test_iqm_is_the_mean_of_the_middle_half(values, expected):
    assert statistics.iqm(np.array(values)) == expected


@pytest.mark.parametrize("count", [1, 3, 4, 10, 11])
def test_iqm_is_the_trimmed_mean_of_scipy(count):
    values = normal((count, 3))
    trimmed = scipy.stats.trim_mean(values, 0.25, axis=0)
    np.testing.assert_allclose(statistics.iqm(values, axis=0), trimmed, rtol=1e-12)


def test_iqm_is_that_of_rliable():
    metrics = pytest.importorskip("rliable.metrics", exc_type=Exception)
    values = normal((11, 3))
    ours = statistics.iqm(values.ravel())
    assert ours == pytest.approx(metrics.aggregate_iqm(values), rel=1e-12)


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.iqm])
def test_interval_of_five_seeds_is_that_of_all_3125_resamples(each_engine, statistic):
    scores = np.array([0.0, 1.0, 3.0, 7.0, 20.0])
    resamples = np.array(list(itertools.product(scores, repeat=5)))
    trimmed = {statistics.mean: 0.0, statistics.iqm: 0.25}[statistic]
    found = scipy.stats.trim_mean(resamples, trimmed, axis=1)
    # Hesterberg 2015 by hand: t(0.975, 4) = 2.7764, and Phi(-sqrt(5 / 4) * 2.7764) = 0.000954.
    expected = np.quantile(found, [0.000954, 1 - 0.000954], method="inverted_cdf")
    estimate = statistics.bootstrap(scores, statistic)
    assert estimate[1:] == pytest.approx(expected, abs=1e-9)


def test_expanded_interval_of_a_mean_is_as_wide_as_the_t_interval_of_ten_seeds(each_engine):
    scores = normal((10, 50))
    estimate = statistics.bootstrap(scores, statistics.mean)
    ratio = (estimate.high - estimate.low) / (2 * t_interval(scores.T))
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)


def test_percentile_interval_is_the_one_rliable_publishes(monkeypatch):
    metrics = pytest.importorskip("rliable.metrics", exc_type=Exception)
    from rliable import library

    use_scipy(monkeypatch)
    scores = normal(10)
    ours = statistics.bootstrap(scores, statistics.iqm, method="percentile")
    np.random.seed(0)  # noqa: NPY002  rliable draws from the global generator
    points, intervals = library.get_interval_estimates(
        {"a": scores[:, None]}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=5000
    )
    width = np.ptp(intervals["a"])
    assert ours.value == pytest.approx(points["a"][0], rel=1e-12)
    assert ours[1:] == pytest.approx(intervals["a"][:, 0], abs=0.05 * width)


@pytest.mark.parametrize("method", statistics.METHODS)
@pytest.mark.parametrize(
    "estimate",
    [
        lambda x, y, method: statistics.bootstrap(x, statistics.iqm, method=method),
        lambda x, y, method: statistics.probability_of_improvement([x], [y], method=method),
        lambda x, y, method: statistics.probability_of_improvement([x, y], [y, x], method=method),
    ],
)
def test_both_engines_give_the_same_interval(monkeypatch, method, estimate):
    if statistics._rliable() is None:
        pytest.skip("rliable cannot be imported here")
    x, y = normal((10, 4)), normal((9, 4)) + 0.5
    from_rliable = estimate(x, y, method=method)
    use_scipy(monkeypatch)
    from_scipy = estimate(x, y, method=method)
    np.testing.assert_array_equal(from_rliable.value, from_scipy.value)
    width = from_scipy.high - from_scipy.low
    # 20 000 resamples leave the end of an interval a standard error of 0.6 % of its width.
    assert (np.abs(from_rliable.low - from_scipy.low) < 0.04 * width).all()
    assert (np.abs(from_rliable.high - from_scipy.high) < 0.04 * width).all()


def test_the_same_scores_always_have_the_same_interval(each_engine):
    np.random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = statistics.bootstrap(normal(6), statistics.iqm)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    assert statistics.bootstrap(normal(6), statistics.iqm) == first


def test_a_seed_is_resampled_with_its_whole_curve(each_engine):
    curve = np.repeat(normal((10, 1)), 5, axis=1)
    low, high = statistics.bootstrap(curve, statistics.mean)[1:]
    np.testing.assert_array_equal(low, low[0])
    np.testing.assert_array_equal(high, high[0])
    assert low[0] < high[0]


def test_environments_are_resampled_on_their_own(quick):
    # Of 5 against 5, resampled on their own, 0 or 1 is won always: the average never varies.
    won, lost = np.arange(5.0, 10.0), np.arange(5.0)
    estimate = statistics.probability_of_improvement([won, lost], [lost, won])
    assert estimate == (0.5, 0.5, 0.5)
    pooled = [np.concatenate([won, lost])], [np.concatenate([lost, won])]
    together = statistics.probability_of_improvement(*pooled)
    assert together.low < 0.5 < together.high


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_than_five_seeds_have_an_estimate_but_no_interval(quick, seeds):
    scores = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0], [6.0, 7.0], [0.0, 8.0]])
    estimate = statistics.bootstrap(scores[:seeds], statistics.mean)
    assert np.isfinite(estimate.value).all()
    assert np.isnan(estimate[1:]).all()
    for pairs in (([scores[:seeds]], [scores]), ([scores, scores], [scores, scores[:seeds]])):
        improvement = statistics.probability_of_improvement(*pairs)
        assert np.isfinite(improvement.value).all()
        assert np.isnan(improvement[1:]).all()
    assert np.isfinite(statistics.bootstrap(scores, statistics.mean)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_leaves_its_position_without_an_interval(each_engine, value):
    scores = normal((5, 3))
    whole = statistics.bootstrap(scores, statistics.mean)
    scores[2, 1] = value
    estimate = statistics.bootstrap(scores, statistics.mean)
    assert not np.isfinite(estimate.value[1])
    assert np.isnan([estimate.low[1], estimate.high[1]]).all()
    for before, after in zip(whole, estimate):
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])


def test_statistics_of_an_unknown_score_are_unknown(quick):
    scores = np.array([1.0, 2.0, 3.0, np.nan])
    assert np.isnan(statistics.iqm(scores))
    assert np.isnan(statistics.probability_of_improvement([scores], [scores[:3]])).all()


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([4, 5, 6], [1, 2, 3], 1.0),
        ([1, 2, 3], [4, 5, 6], 0.0),
        ([1, 2, 3], [1, 2, 3], 0.5),
        ([7, 7, 7], [7, 7, 7, 7], 0.5),
        # 1 beats none, 4 beats 2 and 3 and ties with 4, 5 beats all: 5.5 of 9 pairs.
        ([1, 4, 5], [2, 3, 4], 5.5 / 9),
    ],
)
def test_probability_of_improvement_by_hand(quick, x, y, expected):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    assert statistics.probability_of_improvement([x], [y]).value == pytest.approx(
        expected, rel=1e-12
    )
    pairs = len(x) * len(y)
    assert scipy.stats.mannwhitneyu(x, y).statistic / pairs == pytest.approx(expected, rel=1e-12)


def test_probability_of_improvement_of_a_normal_shift_is_unbiased():
    shift, studies = 1.0, 20_000
    x, y = normal((2, studies)) + shift, -normal((4, studies))[2:]
    found = statistics.probability_of_improvement([x], [y]).value.mean()
    # A study of two seeds against two has a standard deviation of at most 0.5.
    expected = scipy.stats.norm.cdf(shift / 2**0.5)
    assert found == pytest.approx(expected, abs=4 * 0.5 / studies**0.5)


def test_probability_of_improvement_averages_environments(quick):
    won, lost = [np.array([5.0, 6.0, 7.0])], [np.array([1.0, 2.0, 3.0, 4.0])]
    even = [np.array([1.0, 2.0, 3.0])]
    both = statistics.probability_of_improvement(won + even, lost + even)
    assert both.value == 0.75
    with pytest.raises(ValueError, match="2 environments, but y has 1"):
        statistics.probability_of_improvement(won + even, lost)


def test_probability_of_improvement_is_that_of_rliable(quick):
    metrics = pytest.importorskip("rliable.metrics", exc_type=Exception)
    x, y = normal((5, 3)), normal((5, 4))[:, 1:] + 0.5
    ours = statistics.probability_of_improvement([*x.T], [*y.T])
    assert ours.value == pytest.approx(metrics.probability_of_improvement(x, y), rel=1e-12)


@pytest.mark.parametrize("environments", [1, 2])
def test_separated_groups_have_the_exact_interval_of_their_disjoint_pairs(quick, environments):
    high, low = [np.arange(10.0, 16)] * environments, [np.arange(5.0)] * environments
    trials = scipy.stats.binomtest(5 * environments, 5 * environments, alternative="greater")
    bound = trials.proportion_ci(0.95, method="exact").low
    better = statistics.probability_of_improvement(high, low)
    assert better == pytest.approx((1.0, bound, 1.0), rel=1e-9)
    worse = statistics.probability_of_improvement(low, high)
    assert worse == pytest.approx((0.0, 0.0, 1 - bound), rel=1e-9)


@pytest.mark.parametrize("method", statistics.METHODS)
def test_no_outcome_is_surer_than_complete_separation(quick, method):
    # All 252 orders of the scores 0 to 9 of five runs against five.
    orders = list(itertools.combinations(range(10), 5))
    x = np.array(orders, dtype=float).T
    y = np.array([sorted({*range(10)} - {*order}) for order in orders], dtype=float).T
    estimate = statistics.probability_of_improvement([x], [y], method=method)
    assert estimate.value.max() == 1
    np.testing.assert_allclose(estimate.low[estimate.value == 1], 0.05 ** (1 / 5))
    assert estimate.low.max() == estimate.low[estimate.value == 1]
    assert estimate.high.min() == estimate.high[estimate.value == 0]
    assert (estimate.low <= estimate.value).all()
    assert (estimate.value <= estimate.high).all()


@pytest.mark.parametrize("distribution", [normal, often_failing])
@pytest.mark.parametrize("seeds", [5, 10])
def test_equal_groups_are_rarely_told_apart(quick, seeds, distribution):
    x, y = np.split(distribution((2 * seeds, REPETITIONS)), 2)
    _, low, high = statistics.probability_of_improvement([x], [y])
    # 5 % is what a 95 % interval allows; the standard error of the share is then 1 %.
    assert np.mean((low > 0.5) | (high < 0.5)) < 0.05


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("distribution", [normal, often_failing])
def test_expanded_interval_of_the_iqm_holds_it_in_95_percent_of_studies(quick, seeds, distribution):
    truth = scipy.stats.trim_mean(distribution(1_000_000), 0.25)
    estimate = statistics.bootstrap(distribution((seeds, REPETITIONS)), statistics.iqm)
    assert coverage(estimate, truth) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("seeds", [8, 10, 20])
def test_expanded_interval_of_the_mean_holds_it_in_95_percent_of_studies(quick, seeds):
    estimate = statistics.bootstrap(normal((seeds, REPETITIONS)), statistics.mean)
    assert coverage(estimate, 0.0) == pytest.approx(0.95, abs=0.03)


def test_plain_percentiles_of_five_seeds_hold_the_mean_far_less_often(quick):
    studies = normal((5, REPETITIONS))
    plain = statistics.bootstrap(studies, statistics.mean, method="percentile")
    expanded = statistics.bootstrap(studies, statistics.mean)
    assert coverage(plain, 0.0) < 0.88
    assert coverage(expanded, 0.0) > coverage(plain, 0.0) + 0.05


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_interval_of_the_probability_of_improvement_holds_it(quick, shift):
    values = normal((15, REPETITIONS))
    estimate = statistics.probability_of_improvement([values[:10] + shift], [values[10:]])
    truth = scipy.stats.norm.cdf(shift / 2**0.5)
    assert coverage(estimate, truth) > 0.92


def test_area_under_curve_is_the_mean_return_over_the_steps():
    steps = np.array([0, 10, 40])
    returns = np.array([[0.0, 10.0, 10.0], [7.0, 7.0, 7.0], [0.0, 10.0, 40.0]])
    # First row by hand: a triangle of 50 and a rectangle of 300, over 40 steps.
    np.testing.assert_allclose(statistics.area_under_curve(steps, returns), [8.75, 7.0, 20.0])
    np.testing.assert_array_equal(
        statistics.area_under_curve(np.array([5]), np.array([[3], [4]])), [3.0, 4.0]
    )


def test_steps_to_threshold_are_those_of_the_first_evaluation_that_reaches_it():
    steps = np.array([100, 200, 300])
    returns = np.array([[1.0, 5.0, 2.0], [5.0, 0.0, 0.0], [1.0, 2.0, 4.9], [0.0, np.nan, 6.0]])
    found = statistics.steps_to_threshold(steps, returns, 5.0)
    np.testing.assert_array_equal(found, [200, 100, np.nan, 300])


def test_scipy_is_the_engine_where_rliable_is_missing_or_fails_to_import(tmp_path, monkeypatch):
    if statistics._rliable() is not None:
        assert statistics.engine().startswith("rliable 1.")
    monkeypatch.setitem(sys.modules, "rliable", None)  # makes `import rliable` fail
    assert statistics._rliable.__wrapped__() is None
    for name in [name for name in sys.modules if name.split(".")[0] == "rliable"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "rliable").mkdir()
    (tmp_path / "rliable" / "__init__.py").write_text("")
    (tmp_path / "rliable" / "library.py").write_text("raise AttributeError('as with pandas 3')")
    monkeypatch.syspath_prepend(tmp_path)
    assert statistics._rliable.__wrapped__() is None
    use_scipy(monkeypatch)
    assert statistics.engine() == f"scipy {scipy.__version__}"
