import numpy as np
import pytest

from analysis import prediction_error
from analysis.prediction_error import FEWEST_ROWS, Confusion

ROWS = 2 * FEWEST_ROWS


def test_drift_is_the_root_mean_square_by_step_and_dimension():
    # Truth 0 everywhere. Elites are off by +1 and +3 in dimension 0 (RMS sqrt(5), std 1), by -2 and
    # +2 in dimension 1 (RMS 2, std 2), times the step. Segments start 6 away in dimension 0.
    off = np.array([[1.0, -2.0], [3.0, 2.0]])
    steps = np.array([1.0, 2.0, 3.0])
    predicted = np.tile((steps[:, None, None] * off)[:, :, None], (1, 1, ROWS, 1))
    start, reached = np.tile([6.0, 0.0], (ROWS, 1)), np.zeros((ROWS, 3, 2))
    valid = np.ones((ROWS, 3), bool)
    drift = prediction_error.drift(predicted, start, reached, valid, scale=np.array([0.5, 4.0]))
    np.testing.assert_allclose(drift.error, steps[:, None] * [5**0.5 / 0.5, 2 / 4])
    np.testing.assert_allclose(drift.spread, steps[:, None] * [1 / 0.5, 2 / 4])
    np.testing.assert_allclose(drift.no_change, np.tile([12.0, 0.0], (3, 1)))
    assert drift.segments.tolist() == [ROWS] * 3
    pooled = prediction_error.over_dimensions(drift.error)
    np.testing.assert_allclose(pooled, steps * np.sqrt((20 + 0.25) / 2))


def test_steps_after_the_end_of_a_segment_do_not_count():
    predicted, reached = np.ones((2, 1, ROWS, 1)), np.zeros((ROWS, 2, 1))
    valid = np.ones((ROWS, 2), bool)
    valid[FEWEST_ROWS:, 1] = False
    predicted[1, 0, FEWEST_ROWS:] = np.nan
    drift = prediction_error.drift(predicted, np.zeros((ROWS, 1)), reached, valid, np.ones(1))
    assert drift.error.ravel().tolist() == [1.0, 1.0]
    assert drift.segments.tolist() == [ROWS, FEWEST_ROWS]
    reward = prediction_error.reward_error(predicted[..., 0], reached[..., 0] + 3.0, valid)
    np.testing.assert_allclose(reward, [2.0, 2.0])
    valid[0, 1] = False  # one fewer
    drift = prediction_error.drift(predicted, np.zeros((ROWS, 1)), reached, valid, np.ones(1))
    assert drift.error[0] == 1.0
    assert np.isnan([drift.error[1], drift.spread[1], drift.no_change[1]]).all()
    reward = prediction_error.reward_error(predicted[..., 0], reached[..., 0], valid)
    assert np.isnan(reward[1])


def test_predictions_that_overflow_count_as_very_wrong():
    predicted = np.tile(np.array([np.nan, np.inf, 3e38, -np.inf])[:, None], (1, 1, ROWS, 1))
    arguments = np.zeros((ROWS, 1)), np.zeros((ROWS, 1, 1)), np.ones((ROWS, 1), bool), np.ones(1)
    drift = prediction_error.drift(predicted.reshape(1, 4, ROWS, 1), *arguments)
    assert drift.error.item() == pytest.approx(1e6)


def test_disagreement_is_the_spread_and_error_that_of_the_mean():
    # Row 0: elites at 1 and 3, truth 2: spread 1, no error. Row 1: both at 5, truth 1: error 4.
    predicted = np.array([[[1.0], [5.0]], [[3.0], [5.0]]])
    disagreement, error = prediction_error.disagreement_and_error(
        predicted, np.array([[2.0], [1.0]]), scale=np.array([2.0])
    )
    np.testing.assert_allclose(disagreement, [0.5, 0.0])
    np.testing.assert_allclose(error, [0.0, 2.0])


def test_rank_correlation_sees_order_alone():
    x = np.arange(20.0)
    assert prediction_error.rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert prediction_error.rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    # Two neighbours swapped: 1 - 6 sum d^2 / (n (n^2 - 1)) with sum d^2 = 2.
    y = x.copy()
    y[[3, 4]] = y[[4, 3]]
    assert prediction_error.rank_correlation(x, y) == pytest.approx(1 - 12 / (20 * 399))


def test_rank_correlation_is_undefined_for_constants_and_few_rows():
    x = np.arange(20.0)
    assert np.isnan(prediction_error.rank_correlation(x, np.ones(20)))
    assert np.isnan(prediction_error.rank_correlation(np.ones(20), x))
    assert np.isnan(prediction_error.rank_correlation(x[: FEWEST_ROWS - 1], x[: FEWEST_ROWS - 1]))


def test_error_by_decile_orders_by_disagreement():
    disagreement = np.array([9, 0, 1, 2, 3, 4, 5, 6, 7, 8.0]).repeat(2)
    error = np.stack([disagreement * 2.0, np.zeros(10).repeat(2)])[0]
    error[1::2] = 0.0  # each tenth has one error 2d and one of 0: RMS sqrt(2) d
    np.testing.assert_allclose(
        prediction_error.error_by_decile(disagreement, error), np.sqrt(2) * np.arange(10)
    )
    assert np.isnan(prediction_error.error_by_decile(disagreement[:9], error[:9])).all()


def test_confusion_of_two_hits_a_false_alarm_and_a_miss():
    predicted = np.array([[True, True, True, False, False]])
    real = np.array([True, True, False, True, False])
    found = prediction_error.confusion(predicted, real)
    assert found == Confusion(2, 1, 1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    both = prediction_error.confusion(np.concatenate([predicted, ~predicted]), real)
    assert both == Confusion(1.5, 1.0, 1.5)  # the second elite: 1 hit, 1 false alarm, 2 missed


def test_precision_and_recall_are_undefined_without_events():
    assert np.isnan(Confusion(0, 0, 3).precision)
    assert Confusion(0, 0, 3).recall == 0
    assert np.isnan(Confusion(0, 3, 0).recall)
    assert Confusion(0, 3, 0).precision == 0


def test_events_count_only_at_steps_that_happened():
    valid = np.array([[True, True, False], [True, True, True]])
    events = np.zeros((3, 2, 2), bool)  # [H, K, N]
    events[2, 0] = True  # elite 0 at the third step: only segment 1 has one
    events[0, 1, 0] = True  # elite 1 at the first step of segment 0
    assert prediction_error.any_step(events, valid).tolist() == [[False, True], [True, False]]
    assert prediction_error.any_step(events[:, 0], valid).tolist() == [False, True]


def test_what_never_changes_has_scale_one():
    x = np.array([[1.0, 5.0, 1e6], [3.0, 5.0, 1e6 + 0.1]], np.float32)
    assert prediction_error.varies(x).tolist() == [True, False, False]
    assert prediction_error.scales(x).tolist() == [1.0, 1.0, 1.0]
    assert prediction_error.scales(3 * x)[0] == 3.0
