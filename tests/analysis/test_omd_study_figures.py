import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis import omd_study, omd_study_figures
from analysis.omd_study import Tables

BLUE, VERMILION = "#0072b2", "#d55e00"  # omd and mle


def rows(algo, width, distractors, values, error=1.0):
    return [
        (algo, width, distractors, seed, value, error, 50.0, 3000, 100.0, False)
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def points():
    data = [
        *rows("omd", 2, 0, [1.0, 2.0, 3.0], error=10.0),
        *rows("omd", 4, 0, [4.0, 6.0, 8.0], error=100.0),
        *rows("mle", 2, 0, [5.0, 5.0, 5.0], error=0.1),
        *rows("omd", 32, 16, [7.0, 8.0, 9.0]),
    ]
    return pd.DataFrame(data, columns=omd_study._POINT_COLUMNS)


def lines(axes, marker, color):
    """Returns the points of the lines with this marker and colour."""
    return [
        line.get_xydata()
        for line in axes.lines
        if line.get_marker() == marker and to_hex(line.get_color()) == color
    ]


def heights(container):
    """Returns the ends of the error bars of a line."""
    return [segment[:, 1].tolist() for segment in container[2][0].get_segments()]


def test_returns_are_means_with_intervals_over_both_axes(points):
    left, right = omd_study_figures.returns(points).axes
    assert [left.get_xscale(), right.get_xscale()] == ["log", "log"]
    assert left.xaxis.get_transform().base == 2
    shift = 1.05**0.5  # two algorithms, half a step aside each
    (ours,) = lines(left, "o", BLUE)
    np.testing.assert_allclose(ours, [[2 / shift, 2.0], [4 / shift, 6.0]])
    (other,) = lines(left, "o", VERMILION)
    np.testing.assert_allclose(other, [[2 * shift, 5.0]])
    (ours,) = lines(right, "o", BLUE)
    np.testing.assert_allclose(ours, [[16 / shift, 8.0]])
    half = 4.302653 / np.sqrt(3)  # Student's t of three seeds with a standard deviation of one
    np.testing.assert_allclose(
        heights(left.containers[0]), [[2 - half, 2 + half], [6 - 2 * half, 6 + 2 * half]], rtol=1e-6
    )


def test_published_returns_are_hollow_marks(points):
    left, right = omd_study_figures.returns(points).axes
    (theirs,) = lines(left, "D", BLUE)
    np.testing.assert_allclose(theirs[:, 1], [218, 338, 295, 362, 415, 471])
    (theirs,) = lines(right, "D", VERMILION)
    np.testing.assert_allclose(theirs[:, 1], [439, 257, 213, 51, 63, 50])
    assert {line.get_markerfacecolor() for line in left.lines if line.get_marker() == "D"} == {
        "none"
    }
    ticks = [label.get_text() for label in left.get_xticklabels()]
    assert ticks == ["1", "2", "3", "4", "6", "12"]


def test_two_seeds_have_no_error_bars(points):
    (left, _) = omd_study_figures.returns(points[points["seed"] < 2]).axes
    assert not any(len(segment) for segment in left.containers[0][2][0].get_segments())


def test_errors_of_the_model_are_logarithmic_with_table_1_beside_them(points):
    (axes,) = omd_study_figures.model_errors(points).axes
    assert axes.get_yscale() == "log"
    (ours,) = lines(axes, "o", BLUE)
    np.testing.assert_allclose(ours[:, 1], [10.0, 100.0])
    (theirs,) = lines(axes, "D", VERMILION)
    np.testing.assert_allclose(theirs[:, 1], [0.9, 0.4, 1e-2, 1e-3, 1e-5, 1e-5])
    assert [1.5, 1.5] in [[*line.get_ydata()] for line in axes.lines]


def test_curves_are_those_of_the_smallest_and_the_largest_model(points):
    columns = ["env_step", "algo", "width", "distractors", "seed", "eval/return"]
    curves = [
        (step, "omd", width, 0, seed, width * step + seed)
        for width in (2, 3, 4)
        for step in (1000, 2000)
        for seed in (0, 1, 2)
    ]
    tables = Tables(points, pd.DataFrame(curves, columns=columns))
    small, large = omd_study_figures.curves(tables).axes
    assert [small.get_title(), large.get_title()] == ["Model width 2", "Model width 4"]
    (line,) = small.lines
    np.testing.assert_allclose(line.get_xydata(), [[1000, 2001], [2000, 4001]])
    (band,) = small.collections
    half = 4.302653 / np.sqrt(3)
    spread = band.get_paths()[0].vertices
    np.testing.assert_allclose([spread[:, 1].min(), spread[:, 1].max()], [2001 - half, 4001 + half])
