import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba

from analysis import calibration, diagnosis_figure
from analysis.diagnosis_table import tidy
from tests.analysis.diagnosis_rows import rows, value_rows

BLUE, ORANGE, CYAN, GREY = "C0", "C1", "C9", "0.45"


@pytest.fixture(scope="module")
def figure():
    other = rows(error=(0.3, 0.7, 2.5), one_step=(6, 4, 2), width=3.0, bias=-1.0, model=90.0)
    return diagnosis_figure.draw(tidy("mbpo on Toy-v0", {0: rows(), 1: other}))


@pytest.fixture
def panel(figure):
    """Returns a function from the start of a title to its axes."""

    def find(title):
        (axes,) = [axes for axes in figure.axes if axes.get_title().startswith(title)]
        return axes

    return find


def assert_drawn(axes, label, x, y, color, style="-"):
    """There is one line of this label, with these points."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    np.testing.assert_allclose(line.get_xdata(), x)
    np.testing.assert_allclose(line.get_ydata(), y)
    assert to_hex(line.get_color()) == to_hex(color)
    assert line.get_linestyle() == style
    if axes.get_legend() is not None:
        assert label in [text.get_text() for text in axes.get_legend().get_texts()]


def level(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    assert line.get_xdata() == [0, 1]  # across the whole panel
    return line.get_ydata()[0]


def thin_lines(axes, color):
    return [
        line.get_ydata().tolist()
        for line in axes.lines
        if line.get_alpha() == 0.5 and to_hex(line.get_color()) == to_hex(color)
    ]


def bars(axes):
    """Returns place, height, width and colour of every bar."""
    return [
        (
            bar.get_x() + bar.get_width() / 2,
            bar.get_height(),
            bar.get_width(),
            to_hex(bar.get_facecolor()),
        )
        for bar in axes.patches
    ]


def test_the_page_has_eight_panels_with_units(figure):
    assert figure.get_suptitle() == "mbpo on Toy-v0\nstrong: mean of 2 seeds, faint: single seeds"
    assert len(figure.axes) == 8
    for axes in figure.axes:
        assert "\ngood: " in axes.get_title()
        assert axes.get_ylabel() or axes.get_title().startswith("Predicted terminations")


def test_drift_shows_error_and_spread_beside_two_guesses(panel):
    axes = panel("Open-loop error\n")
    steps = [1, 2, 3]
    assert_drawn(axes, "error of an elite", steps, [0.2, 0.6, 2.0], BLUE)
    assert_drawn(axes, "spread of the elites", steps, [0.05, 0.1, 0.3], ORANGE)
    assert_drawn(axes, "error of predicting no change", steps, [0.4, 0.8, 1.2], GREY, "--")
    assert level(axes, "error of a constant guess") == 1.0
    assert thin_lines(axes, BLUE) == [[0.1, 0.5, 1.5], [0.3, 0.7, 2.5]]
    assert axes.get_yscale() == "log"


def test_dimensions_are_points_with_the_range_of_the_seeds(panel):
    axes = panel("Open-loop error by dimension")
    assert_drawn(axes, "error, 3 steps", [0, 1, 2], [2.0, 0.8, 0.9], BLUE, "None")
    assert_drawn(axes, "error, 1 step", [0, 1, 2], [0.1, 0.2, 0.3], CYAN, "None")
    assert_drawn(axes, "spread, 3 steps", [0, 1], [0.4, 0.5], ORANGE, "None")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "r"]
    ranges = axes.collections[0].get_segments()
    np.testing.assert_allclose(ranges[0], [[0, 1.5], [0, 2.5]])
    np.testing.assert_allclose(ranges[1], [[1, 0.8], [1, 0.8]])


def test_likelihoods_are_bars_with_their_numbers(panel):
    axes = panel("Negative log-likelihood")
    expected = [(0, -1.0, BLUE), (1, -1.5, BLUE), (2, 0.5, GREY)]
    for bar, (place, height, color) in zip(bars(axes), expected, strict=True):
        assert bar[:3] == pytest.approx((place, height, 0.6))
        assert bar[3] == to_hex(color)
    names = [label.get_text().split("\n")[-1] for label in axes.get_xticklabels()]
    assert names == ["-1", "-1.5", "0.5"]


def test_calibration_has_the_coverage_between_two_references(panel):
    axes = panel("Calibration")
    assert_drawn(axes, "model (RMS error / std: 2)", calibration.LEVELS, [0.6] * 19, BLUE)
    assert_drawn(axes, "calibrated", [0, 1], [0, 1], GREY, "--")
    (twice,) = [line for line in axes.lines if line.get_label() == "over-confident by 2"]
    # Inside +-0.6745 predicted standard deviations, +-0.3372 true ones: 26.4 %.
    assert np.interp(0.5, *twice.get_data()) == pytest.approx(0.264, abs=1e-3)


def test_disagreement_shows_the_error_of_every_tenth(panel):
    axes = panel("Does disagreement")
    tenths = np.arange(1, 11)
    assert_drawn(axes, "1 step, rank correlation 0.70", tenths, tenths, CYAN)
    assert_drawn(axes, "3 steps, rank correlation 0.60", tenths, 2 * tenths, BLUE)


def test_values_have_error_and_bias_by_model_steps(panel):
    axes = panel("Value estimate")
    assert_drawn(axes, "RMSE", [0, 1], [10, 8], BLUE)
    assert_drawn(axes, "bias (estimate minus return)", [0, 1], [2, 2], "C3")
    assert level(axes, "RMSE of a constant guess") == 20.0


def test_terminations_are_bars_of_precision_and_recall(panel):
    axes = panel("Predicted terminations")
    # Seeds: 9 of 10 predicted and 9 of 10 real; 6 of 10 predicted and 6 of 8 real.
    heights = {-0.2: (0.9 + 0.6) / 2, 0.2: (0.9 + 0.75) / 2}
    colors = {-0.2: "C2", 0.2: "C4"}
    expected = [(x + shift, heights[shift], colors[shift]) for x in (0, 1) for shift in heights]
    for bar, (place, height, color) in zip(bars(axes), expected, strict=True):
        assert bar[:3] == pytest.approx((place, height, 0.36))
        assert bar[3] == to_hex(color)
    written = [text.get_text() for text in axes.texts]
    assert written == [f"{height:.2f}" for height in heights.values()] * 2
    places = [label.get_text() for label in axes.get_xticklabels()]
    assert places == ["next step\n18 real, 20 predicted", "within 3 steps\n54 real, 60 predicted"]


def test_returns_have_bands_of_the_pooled_interval(panel):
    axes = panel("Return so far")
    assert_drawn(axes, "environment", [100], [100.0], "k")
    assert_drawn(axes, "model", [100], [85.0], BLUE, "--")
    half = np.hypot(4.0, 3.0) / 2
    for band, middle, color in zip(axes.collections, (100.0, 85.0), ("k", BLUE), strict=True):
        y = band.get_paths()[0].vertices[:, 1]
        assert (y.min(), y.max()) == pytest.approx((middle - half, middle + half))
        np.testing.assert_allclose(band.get_facecolor()[0], to_rgba(color, 0.2))


def test_returns_that_explode_in_the_model_leave_the_real_ones_visible():
    figure = diagnosis_figure.draw(tidy("", {0: rows(model=1e9)}))
    assert figure.axes[-1].get_yscale() == "symlog"
    assert diagnosis_figure.draw(tidy("", {0: rows()})).axes[-1].get_yscale() == "linear"


def test_nothing_to_predict_is_written_into_the_bars():
    axes = diagnosis_figure.draw(tidy("", {0: rows(one_step=(0, 0, 0))})).axes[-2]
    assert [bar[1] for bar in bars(axes)] == [0.0] * 4
    assert [text.get_text() for text in axes.texts] == ["none\npredicted", "none\nreal"] * 2


def test_an_algorithm_without_a_model_has_the_panel_of_values_alone():
    figure = diagnosis_figure.draw(tidy("sac on Toy-v0", {0: value_rows()}))
    (axes,) = figure.axes
    assert_drawn(axes, "RMSE", [0], [10], BLUE)


def test_returns_that_cannot_be_compared_are_said_to_be_so():
    kept = [row for row in value_rows() if row[0].startswith("data/")]
    (axes,) = diagnosis_figure.draw(tidy("", {0: kept})).axes
    assert [text.get_text() for text in axes.texts] == [
        "no return can be compared:\nepisodes are cut too early"
    ]
