import numpy as np
import pytest

from analysis.diagnosis_table import tidy
from analysis.diagnosis_text import paragraph, useful_steps
from tests.analysis.diagnosis_rows import rows, value_rows


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
        ({"factor": 1.05}, "it is **calibrated**: RMS errors are 1.05 predicted"),
        ({"factor": 0.25}, "it is **under-confident by a factor of 4**: RMS errors are 0.25"),
        ({"held": 0.95}, "95% of the targets lie in 90% intervals: a few very large errors cause"),
        ({"spearman": (0.7, 0.3)}, "is a weak sign of error"),
        ({"spearman": (0.7, 0.1)}, "cannot be trusted to tell where the model is wrong"),
        ({"spearman": (np.nan, np.nan)}, "compared with the error: one of them never changes."),
        (
            {"spearman": (np.nan, np.nan), "deciles": [np.nan] * 10},
            "Disagreement cannot be compared with the error: too few steps were played.",
        ),
        ({"spearman": (0.7, np.nan)}, "(rank correlation 0.70 after 1 step)."),
        ({"one_step": (1, 0, 0)}, "one step ahead 1 of the 1 termination, with 0 false alarms;"),
        (
            {"one_step": (1234.4, 1500.0, 100.6)},
            "one step ahead 1,234 of the 1,335 terminations, with 1,500 false alarms;",
        ),
        ({"one_step": (0, 0, 0)}, "No termination occurred, and none was predicted."),
        ({"one_step": (0, 2, 0)}, "predicts one step ahead 2 terminations where none occurred"),
        ({"bias": -10.0}, "**underestimates the discounted soft return by 20%**: a bias of -10"),
        ({"bias": 2.0}, "**estimates the discounted soft return without notable bias**"),
        ({"bias": 1500.0}, "by 3000%**: a bias of +1,500 where returns average 50,"),
        (
            {"bias": 6.0, "mean": 0.0},
            "**overestimates the discounted soft return by 30% of its standard deviation**: a bias",
        ),
        ({"bias": -6.0, "mean": -10.0}, "**underestimates the discounted soft return by 30% of"),
        ({"bias": -6.0, "mean": -30.0}, "**underestimates the discounted soft return by 20%**"),
        ({"bias": 0.9, "mean": 0.0}, "without notable bias"),
        (
            {"bias": 6.0, "mean": 0.0, "std": 0.0},
            "**overestimates the discounted soft return by 6**",
        ),
        ({"bias": 0.0, "mean": 0.0, "std": 0.0}, "without notable bias"),
        ({"bias": 6.0, "mean": 30.0, "std": 0.0}, "the discounted soft return by 20%**"),
        (
            {"rmse": (np.nan, np.nan)},
            "The value estimate cannot be compared with returns: no model rollout stays finite.",
        ),
        ({"rmse": (10.0, 9.9)}, "Steps of the model before it do not help: 9.9 after 1."),
        ({"rmse": (10.0,)}, "a constant guess having 20. From the same starts"),
        ({"model": 103.0}, "no difference these episodes can show (+3 ± 4)."),
        ({"model": 130.0}, "**too much** (+30 ± 4, 30%)."),
        ({"model": 96.0}, "no difference these episodes can show (-4 ± 4)."),
        ({"model": 100.0, "width": 0.0}, "no difference these episodes can show (+0 ± 0)."),
        (
            {"model": 15023.4, "environment": 13500.0, "width": 150.0},
            "15,023 in the model and 13,500 in the environment: **too much** (+1,523 ± 150,",
        ),
        (
            {"width": np.nan},
            "100 in the environment: a difference of -20, from too few episodes for an interval.",
        ),
        (
            {"model": 100.0, "width": np.nan},
            "a difference of +0, from too few episodes for an interval.",
        ),
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
    assert "**over-confident by a factor of 1.75 on average, but not in every seed**" in found
    assert "RMS errors are 1.75 predicted standard deviations (seeds: 0.5 to 3)" in found
    assert "a bias of +1 (seeds: -3 to +5)" in found
    assert "18 of the 20 terminations, with 2 false alarms" in found
    assert "**too little** (-20 ± 2.83, 20%)" in found  # 4 / sqrt(2)


def test_without_a_model_only_the_critic_is_judged():
    frame = tidy("sac on Toy-v0", {0: value_rows()})
    assert paragraph(frame).startswith(
        "This algorithm has no dynamics model to diagnose. The critic **overestimates"
    )


def test_episodes_cut_too_early_are_said_to_allow_no_comparison():
    kept = [row for row in rows() if row[0].startswith("data/")]
    frame = tidy("", {0: [*kept, ("value/positions", 0.0, "all", 0)]})
    assert "time limits cut the episodes before the discount" in paragraph(frame)
