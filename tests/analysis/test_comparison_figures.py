import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from analysis import comparison_figures

NAN = float("nan")
BLUE, VERMILION = "#0072B2", "#D55E00"  # of the first two groups


def score(final, low, high):
    """Columns of summary.csv; the interquartile mean is one above the mean."""
    ends = {"": final, "_low": low, "_high": high}
    return {
        f"{measure}_{name}{end}": value + (name == "iqm")
        for measure in ("final", "area")
        for name in ("mean", "iqm")
        for end, value in ends.items()
    }


@pytest.fixture
def tables():
    """Two groups: one of five seeds with scores 8 to 12, one of two seeds with 1 and 3."""
    summary = [
        {"env": "A-v5", "group": "mbpo", "seeds": 5, "step": 3000, **score(10.0, 8.5, 11.5)},
        {"env": "A-v5", "group": "sac", "seeds": 2, "step": 3000, **score(2.0, NAN, NAN)},
    ]
    seeds = [("mbpo", x) for x in (8.0, 9.0, 10.0, 11.0, 12.0)] + [("sac", 1.0), ("sac", 3.0)]
    pairs = [("final", 0.9, 0.7, 1.0), ("area", 0.6, NAN, NAN)]
    time = [("mbpo", "model fits", 120.0), ("mbpo", "policy updates", 60.0)]
    time += [("sac", "policy updates", 30.0), ("sac", "everything else", 90.0)]
    return {
        "summary": pd.DataFrame(summary),
        "scores": pd.DataFrame(
            [{"env": "A-v5", "group": g, "final": x, "area": x} for g, x in seeds]
        ),
        "improvement": pd.DataFrame(
            [("A-v5", "mbpo", "sac", *pair) for pair in pairs],
            columns=["env", "group", "other", "measure", "probability", "low", "high"],
        ),
        "time": pd.DataFrame(
            [("A-v5", *row) for row in time], columns=["env", "group", "stage", "seconds"]
        ),
    }


def score_panels(tables):
    return comparison_figures._scores(tables, comparison_figures._styles(tables))


def lines(axes, marker, color):
    return [
        [*line.get_xdata()]
        for line in axes.lines
        if line.get_marker() == marker and to_rgba(line.get_color()) == to_rgba(color)
    ]


@pytest.mark.parametrize("panel", [0, 1])
def test_scores_have_a_point_and_an_interval_per_statistic_and_a_tick_per_seed(tables, panel):
    axes = score_panels(tables).axes[panel]
    assert lines(axes, "o", BLUE) == [[10.0]]
    assert lines(axes, "s", BLUE) == [[11.0]]
    assert lines(axes, "o", VERMILION) == [[2.0]]
    assert lines(axes, "None", BLUE) == [[8.5, 11.5], [9.5, 12.5]]
    assert lines(axes, "|", "0.45") == [[1.0, 3.0], [8.0, 9.0, 10.0, 11.0, 12.0]]
    assert axes.get_xlabel() == ("final return", "mean return over the run")[panel]


def test_the_best_group_is_at_the_top_and_named_on_the_left(tables):
    left = score_panels(tables).axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["sac", "mbpo"]
    heights = {line.get_color(): line.get_ydata()[0] for line in left.lines}
    assert heights[BLUE] > heights[VERMILION]
    assert left.get_title(loc="left") == "A-v5, step 3,000"


def test_seeds_too_few_for_an_interval_have_their_range_dotted_and_explained(tables):
    page = score_panels(tables)
    assert lines(page.axes[0], "None", VERMILION) == [[1.0, 3.0]] * 2
    dotted = [line for line in page.axes[0].lines if line.get_linestyle() == ":"]
    assert len(dotted) == 2
    assert page.legends[0].get_texts()[-1].get_text() == "range, too few seeds"
    tables["summary"] = tables["summary"].iloc[:1]
    texts = [text.get_text() for text in score_panels(tables).legends[0].get_texts()]
    assert "range, too few seeds" not in texts


def test_improvement_has_a_diamond_per_measure_and_its_interval_if_there_is_one(tables):
    axes = score_panels(tables).axes[2]
    assert lines(axes, "D", "black") == [[0.9], [0.6]]
    assert lines(axes, "None", "black") == [[0.7, 1.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mbpo over\nsac"]
    assert lines(axes, "None", "0.4") == [[0.5, 0.5]]
    assert axes.get_xlabel() == "probability of improvement"


def test_too_many_pairs_are_cut_to_those_with_the_best_group(tables):
    groups = "abcdef"
    tables["summary"] = pd.DataFrame(
        [{"env": "A-v5", "group": g, "final_mean": float(i)} for i, g in enumerate(groups)]
    )
    pairs = [("A-v5", x, y) for i, x in enumerate(groups) for y in groups[i + 1 :]]
    improvement = [(*pair, m) for pair in pairs for m in ("final", "area")]
    columns = ["env", "group", "other", "measure"]
    tables["improvement"] = pd.DataFrame(improvement, columns=columns)
    shown = comparison_figures._shown_pairs(tables, "A-v5")
    assert shown["other"].tolist() == ["f"] * 10


def test_time_is_stacked_in_minutes_with_a_colour_per_stage(tables):
    page = comparison_figures._time(tables)
    axes = page.axes[0]
    drawn = {
        bars.get_label(): [(b.get_x(), b.get_width()) for b in bars] for bars in axes.containers
    }
    # From the bottom: sac, then mbpo.
    assert drawn == {
        "model fits": [(0.0, 0.0), (0.0, 2.0)],
        "policy updates": [(0.0, 0.5), (2.0, 1.0)],
        "everything else": [(0.5, 1.5), (3.0, 0.0)],
    }
    colors = {bars[0].get_facecolor() for bars in axes.containers}
    assert len(colors) == 3
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A-v5\nsac", "A-v5\nmbpo"]
    assert [text.get_text() for text in page.legends[0].get_texts()] == list(drawn)


def test_groups_have_colours_and_lines_of_their_own():
    groups = [f"g{index}" for index in range(14)]
    styles = comparison_figures._styles({"summary": pd.DataFrame({"group": groups})})
    assert list(styles) == groups
    looks = [(style["color"], style["linestyle"]) for style in styles.values()]
    assert len(set(looks)) == len(looks)
    assert len({color for color, _ in looks[:7]}) == 7
    assert np.all([to_rgba(color)[3] == 1 for color, _ in looks])
