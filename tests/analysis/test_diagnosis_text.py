import numpy as np
import pytest

from analysis import calibration, diagnosis_figure, diagnosis_report
from analysis.diagnosis_table import tidy
from analysis.diagnosis_text import paragraph, useful_steps


def curve(quantity, values, first=1):
    return [(quantity, float(first + k), "all", value) for k, value in enumerate(values)]


def terminations(kind, steps, hits, false_alarms, missed):
    names = ("true_positives", "false_positives", "false_negatives")
    counts = (hits, false_alarms, missed)
    return [(f"termination/{kind}_{n}", steps, "all", c) for n, c in zip(names, counts)]


def rows(
    error=(0.1, 0.5, 1.5),
    no_change=(0.4, 0.8, 1.2),
    factor=2.0,
    held=0.6,
    spearman=(0.7, 0.6),
    one_step=(9, 1, 1),
    bias=5.0,
    rmse=(10.0, 8.0),
    model=80.0,
    width=4.0,
    diverged=0,
):
    """A table of three steps whose statements can be read off."""
    return [
        ("data/episodes", 0.0, "all", 10),
        ("data/transitions", 0.0, "all", 500),
        *curve("open_loop/segments", [500, 490, 480]),
        *curve("open_loop/error", error),
        *curve("open_loop/spread", [0.05, 0.1, 0.3]),
        *curve("open_loop/no_change", no_change),
        *[("open_loop/error", 3.0, name, 0.5) for name in ("0", "1", "reward")],
        ("nll/elites", 1.0, "all", -1.0),
        ("nll/mixture", 1.0, "all", -1.5),
        ("nll/constant", 1.0, "all", 0.5),
        ("calibration/overconfidence", 1.0, "all", factor),
        *[("calibration/coverage", level, "all", held) for level in calibration.LEVELS],
        ("disagreement/one_step_spearman", 1.0, "all", spearman[0]),
        ("disagreement/open_loop_spearman", 3.0, "all", spearman[1]),
        *terminations("one_step", 1.0, *one_step),
        *terminations("open_loop", 3.0, *(3 * count for count in one_step)),
        ("value/positions", 0.0, "all", 400),
        ("value/return_mean", 0.0, "all", 50.0),
        ("value/return_std", 0.0, "all", 20.0),
        *curve("value/bias", [bias, bias], first=0),
        *curve("value/rmse", rmse, first=0),
        ("return/rollouts", 100.0, "all", 50),
        ("return/diverged", 100.0, "all", diverged),
        ("return/environment", 100.0, "all", 100.0),
        ("return/model", 100.0, "all", model),
        ("return/gap", 100.0, "all", model - 100.0),
        ("return/gap_half_width", 100.0, "all", width),
        ("return/environment_half_width", 100.0, "all", width),
        ("return/model_half_width", 100.0, "all", width),
    ]


def text(**changes):
    return paragraph(tidy("mbpo on Toy-v0", {0: rows(**changes)}))


@pytest.mark.parametrize(
    ("error", "no_change", "steps"),
    [
        ([0.1, 0.2, 0.3], [2.0, 2.0, 2.0], 3),
        ([0.1, 0.2, 1.0], [2.0, 2.0, 2.0], 2),  # as bad as a constant
        ([0.1, 0.2, 0.1], [0.5, 0.2, 0.5], 1),  # as bad as no change, once is enough
        ([0.1, 0.2, 0.1], [0.1, 0.5, 0.5], 0),
    ],
)
def test_useful_steps_end_where_a_guess_is_as_good(error, no_change, steps):
    assert useful_steps(np.array(error), np.array(no_change)) == steps


def test_the_finding_comes_first_and_every_number_is_that_of_the_table():
    found = text()
    assert found.startswith(
        "**The model is good for 2 steps**: when real actions are replayed, the error of an elite "
        "is 0.1 standard deviations of the real observations after 1 step and 1.5 after 3, worse "
        "than a constant guess from step 3 on. The elites' spread is 50% of that error after 1 "
        "step and 20% after 3. "
    )
    assert (
        "One step ahead it is **over-confident by a factor of 2**: RMS errors are 2 predicted "
        "standard deviations, and 60% of the targets lie in 90% intervals. Targets are 2 nats per "
        "dimension more likely under the elites' mixture than under a constant Gaussian." in found
    )
    assert (
        "Disagreement among the elites can be trusted to rank predictions by their error "
        "(rank correlation 0.70 after 1 step and 0.60 after 3 steps)." in found
    )
    assert (
        "An elite predicts one step ahead 9 of the 10 terminations, with 1 false alarm; within "
        "3 steps 27 of the 30 terminations, with 3 false alarms." in found
    )
    assert (
        "The critic **overestimates the discounted soft return by 10%**: a bias of +5 where "
        "returns average 50, and an RMSE of 10, a constant guess having 20. Putting 1 step of the "
        "model before it lowers the RMSE to 8." in found
    )
    assert found.endswith(
        "From the same starts and over 100 steps the policy collects 80 in the model and 100 in "
        "the environment: **too little** (-20 ± 4, 20%)."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"error": (0.1, 0.2, 0.3)}, "**The model is good for every step tested**"),
        ({"error": (0.1, 0.9, 0.3)}, "**The model is good for 1 step**"),
        ({"error": (0.1, 0.9, 0.3)}, "worse than predicting no change from step 2 on"),
        ({"error": (0.5, 0.9, 0.3)}, "**The model is not good for a single step**"),
        ({"factor": 1.05}, "it is **calibrated**: RMS errors are 1.1 predicted"),
        ({"factor": 0.25}, "it is **under-confident by a factor of 4**: RMS errors are 0.25"),
        ({"held": 0.95}, "95% of the targets lie in 90% intervals: a few very large errors cause"),
        ({"spearman": (0.7, 0.3)}, "is a weak sign of error"),
        ({"spearman": (0.7, 0.1)}, "cannot be trusted to tell where the model is wrong"),
        ({"spearman": (np.nan, np.nan)}, "Disagreement cannot be compared with the error"),
        ({"one_step": (0, 0, 0)}, "No termination occurred, and none was predicted."),
        ({"one_step": (0, 2, 0)}, "predicts one step ahead 2 terminations where none occurred"),
        ({"bias": -10.0}, "**underestimates the discounted soft return by 20%**: a bias of -10"),
        ({"bias": 2.0}, "**estimates the discounted soft return without notable bias**"),
        ({"rmse": (10.0, 9.9)}, "Steps of the model before it do not help: 9.9 after 1."),
        ({"rmse": (10.0,)}, "a constant guess having 20. From the same starts"),
        ({"model": 103.0}, "no difference these episodes can show (+3 ± 4)."),
        ({"model": 130.0}, "**too much** (+30 ± 4, 30%)."),
        ({"width": np.nan}, "**too little** (-20, 20%)."),
        ({"diverged": 3}, "3 of 50 model rollouts left the numbers and do not count."),
    ],
)
def test_each_verdict_follows_from_its_number(changes, expected):
    assert expected in text(**changes)


def test_seeds_that_differ_are_told_apart():
    found = paragraph(
        tidy("", {0: rows(error=(0.1, 0.2, 0.3), factor=3.0), 1: rows(factor=0.5, bias=-3.0)})
    )
    assert "**The model is good for every step tested** (seeds: 2 to 3)" in found
    assert "**over-confident by a factor of 1.8 on average, but not in every seed**" in found
    assert "RMS errors are 1.8 predicted standard deviations (seeds: 0.5 to 3)" in found
    assert "a bias of +1 (seeds: -3 to +5)" in found
    assert "18 of the 20 terminations, with 2 false alarms" in found
    assert "**too little** (-20 ± 2.8, 20%)" in found  # 4 / sqrt(2)


def value_rows():
    return [row for row in rows() if row[0].startswith(("data/", "value/")) and row[1] == 0.0]


def test_without_a_model_only_the_critic_is_judged():
    frame = tidy("sac on Toy-v0", {0: value_rows()})
    assert paragraph(frame).startswith(
        "This algorithm has no dynamics model to diagnose. The critic **overestimates"
    )
    assert "Open-loop" not in diagnosis_report.report(frame)
    assert len(diagnosis_figure.draw(frame).axes) == 1


def test_episodes_cut_too_early_are_said_to_allow_no_comparison():
    kept = [row for row in value_rows() if row[0].startswith("data/")]
    frame = tidy("", {0: [*kept, ("value/positions", 0.0, "all", 0)]})
    assert "time limits cut the episodes before the discount has made the rest small" in paragraph(
        frame
    )
    assert "at 0 positions" in diagnosis_report.report(frame)


def test_the_report_says_what_was_measured_and_lists_the_numbers():
    report = diagnosis_report.report(tidy("mbpo on Toy-v0", {0: rows(), 1: rows(bias=7.0)}))
    assert report.startswith("# Diagnosis of mbpo on Toy-v0\n\n**The model is good")
    assert "10 new episodes per seed, 1,000 steps in all" in report
    assert "at 800 positions" in report
    assert "the discount until then is at most 0.2" in report
    assert "| open-loop error (std of the observations) | 3 | 1.5 | 1.5 | 1.5 |" in report
    assert "| bias of the value (discounted soft return) | 0 | 6 | 5 | 7 |" in report
    assert "nan" not in report


def test_targets_left_out_are_named():
    constant = [("data/constant_target", 0.0, name, 1.0) for name in ("3", "reward")]
    report = diagnosis_report.report(tidy("", {0: [*rows(), *constant]}))
    assert "left out of likelihood and calibration: dimension 3, reward." in report


def test_the_page_draws_the_numbers_of_the_table():
    figure = diagnosis_figure.draw(
        tidy("mbpo on Toy-v0", {0: rows(), 1: rows(error=(0.3, 0.7, 2.5))})
    )
    assert figure.get_suptitle().startswith("mbpo on Toy-v0\nstrong: mean of 2 seeds")
    panels = {axes.get_title().partition("\n")[0]: axes for axes in figure.axes}
    assert len(panels) == 8
    drawn = {line.get_label(): line for line in panels["Open-loop error"].lines}
    np.testing.assert_allclose(drawn["error of an elite"].get_ydata(), [0.2, 0.6, 2.0])
    np.testing.assert_allclose(drawn["error of an elite"].get_xdata(), [1, 2, 3])
    assert all(axes.get_ylabel() or "terminations" in title for title, axes in panels.items())
    twice = {
        line.get_label(): line for line in panels["Calibration of the variance, one step"].lines
    }
    x, y = twice["over-confident by 2"].get_data()
    # Inside +-0.6745 predicted standard deviations, +-0.3372 true ones: 26.4 %.
    assert np.interp(0.5, x, y) == pytest.approx(0.264, abs=1e-3)


def test_returns_that_explode_in_the_model_leave_the_real_ones_visible():
    figure = diagnosis_figure.draw(tidy("", {0: rows(model=1e9)}))
    assert figure.axes[-1].get_yscale() == "symlog"
    assert diagnosis_figure.draw(tidy("", {0: rows()})).axes[-1].get_yscale() == "linear"
