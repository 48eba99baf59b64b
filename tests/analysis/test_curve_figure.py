import numpy as np
import pandas as pd
import pytest

from analysis import curve_figure, published, published_curves

BAND = published_curves.BAND


def behind(*rows):
    """Returns published curves; a row is environment, algorithm, step, mean and spread."""
    columns = ["env", "algorithm", "env_step", "mean", "std"]
    found = pd.DataFrame(rows, columns=columns).reindex(columns=published_curves.COLUMNS)
    return found.assign(env_version="v2")


def tables(last, rows, *curves):
    columns = ["env", "algo", "variant", "step", "source"]
    return {
        "curves": pd.DataFrame({"env": ["A-v5", "A-v5", "B-v5"], "step": [10, last, 1000]}),
        "published": pd.DataFrame(rows, columns=columns).assign(spread_kind="std"),
        "published_curves": behind(*curves),
    }


def test_published_values_are_drawn_up_to_a_quarter_beyond_the_curves():
    rows = [("A-v5", "mbpo", "", step, "S") for step in (50, 125, 126, np.nan)]
    drawn = curve_figure.drawn_references(tables(100, rows))
    assert drawn["step"].tolist() == [50, 125]


def test_each_environment_has_its_own_range_and_variants_are_not_drawn():
    rows = [
        ("A-v5", "mbpo", "", 900, "S"),
        ("B-v5", "mbpo", "", 900, "S"),
        ("B-v5", "mbpo", "model width 3", 900, "S"),
    ]
    drawn = curve_figure.drawn_references(tables(100, rows))
    assert drawn.index.tolist() == [1]


def test_a_source_has_one_mark_per_algorithm_and_environment():
    rows = [
        ("A-v5", "mbpo", "", 1, "S"),
        ("A-v5", "mbpo", "", 2, "T"),
        ("A-v5", "sac", "", 3, "T"),
        ("A-v5", "mbpo", "", 4, "S"),
        ("B-v5", "mbpo", "", 5, "T"),
    ]
    drawn = curve_figure.drawn_references(tables(100, rows))
    assert drawn["mark"].tolist() == [1, 2, 3, 1, 1]


def test_values_of_a_band_are_not_drawn_where_the_band_is():
    rows = [("A-v5", "mbpo", "", 50, "S"), ("A-v5", "mbpo", "", 60, "T")]
    rows += [("B-v5", "mbpo", "", 50, "S")]
    found = tables(100, rows, ("A-v5", BAND, 50, 1.0, 2.0))
    found["published"]["spread_kind"] = [published.HALF_WIDTH, "std", published.HALF_WIDTH]
    assert curve_figure.drawn_references(found).index.tolist() == [1, 2]


def figure_of(groups, published=(), curves_behind=()):
    """Draws curves of one environment; `groups` has mean by name and steps 1000 and 2000."""
    curves = [
        {"env": "A-v5", "group": group, "step": step, "seeds": seeds, "mean": value, "iqm": value}
        | {"mean_low": low, "mean_high": high, "iqm_low": low, "iqm_high": high}
        | {"min": value - 1, "max": value + 1}
        for group, (value, low, high, seeds) in groups.items()
        for step in (1000, 2000)
    ]
    summary = [{"env": "A-v5", "group": g, "algo": g, "step": 2000} for g in groups]
    columns = ["env", "algo", "variant", "step", "mean", "spread", "source"]
    styles = {g: {"color": f"C{i}", "linestyle": "-"} for i, g in enumerate(groups)}
    found = {
        "curves": pd.DataFrame(curves),
        "summary": pd.DataFrame(summary),
        "published": pd.DataFrame(published, columns=columns).assign(spread_kind="std"),
        "published_curves": behind(*curves_behind),
    }
    return curve_figure.figure(found, styles)


def test_panels_have_mean_and_interquartile_mean_axes_with_units_and_direct_labels():
    page = figure_of({"mbpo": (5.0, 4.0, 6.0, 5), "sac": (1.0, np.nan, np.nan, 2)})
    left, right = page.axes
    assert left.get_title() == "A-v5: mean over seeds"
    assert right.get_title() == "A-v5: interquartile mean"
    assert left.get_xlabel() == right.get_xlabel() == "environment steps per seed"
    assert left.get_ylabel() == "return (sum of rewards per episode)"
    assert {text.get_text() for text in right.texts} == {"mbpo (5 seeds)", "sac (2 seeds)"}


def test_the_band_is_the_interval_or_the_range_of_too_few_seeds():
    page = figure_of({"mbpo": (5.0, 4.5, 5.7, 5), "sac": (1.0, np.nan, np.nan, 2)})
    bands = [band.get_paths()[0].vertices[:, 1] for band in page.axes[0].collections]
    assert [(band.min(), band.max()) for band in bands] == [(4.5, 5.7), (0.0, 2.0)]


def test_a_published_value_has_the_colour_of_its_algorithm_its_spread_and_its_source():
    rows = [
        ("A-v5", "sac", "", 1500, 3.0, 0.5, "A paper"),
        ("A-v5", "omd", "", 1600, 4.0, np.nan, "A blog"),
    ]
    page = figure_of({"mbpo": (5.0, 4.0, 6.0, 5), "sac": (1.0, 0.5, 1.5, 5)}, rows)
    left, right = page.axes
    diamonds = [line for line in left.lines if line.get_marker() == "D"]
    assert [line.get_color() for line in diamonds] == ["C1", "0.35"]
    assert [line.get_ydata()[0] for line in diamonds] == [3.0, 4.0]
    spreads = [c for c in left.collections if len(c.get_paths()) and "LineCollection" in repr(c)]
    assert [c.get_segments()[0][:, 1].tolist() for c in spreads] == [[2.5, 3.5]]
    assert "[1] sac: A paper\n[2] omd: A blog" in right.texts[0].get_text()


def test_published_curves_are_behind_the_means_of_their_environment_and_named_on_the_right():
    rows = [("A-v5", BAND, step, 3.0, 0.5) for step in (1000, 2500)]
    rows += [("B-v5", BAND, 1000, 9.0, 0.5)]
    page = figure_of({"mbpo": (5.0, 4.0, 6.0, 5)}, curves_behind=rows)
    left, right = page.axes
    name = "published, -v2: MBPO (2019), a band"
    (curve,) = [line for line in left.lines if line.get_label() == name]
    assert curve.get_xydata().tolist() == [[1000, 3], [2500, 3]]
    assert left.get_legend() is None
    assert [text.get_text() for text in right.get_legend().get_texts()] == [name]
    assert all(axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 2500 for axes in (left, right))


@pytest.mark.parametrize("height", [0.0, 50.0, 100.0])
def test_labels_overlap_neither_each_other_nor_the_sources(height):
    groups = dict.fromkeys("abcd", (height, height, height, 5))
    groups |= {"low": (0.0, -1.0, 1.0, 5), "high": (100.0, 99.0, 101.0, 5)}
    rows = [("A-v5", BAND, 1000, 3.0, 0.5)]
    page = figure_of(groups, [("A-v5", "omd", "", 1600, 4.0, np.nan, "A blog")], rows)
    page.draw_without_rendering()
    right = page.axes[1]
    boxes = [text.get_window_extent() for text in [*right.texts, *right.get_legend().get_texts()]]
    assert len(boxes) == 6 + 1 + 1
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
