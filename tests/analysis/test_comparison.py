import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import comparison, grouping, runs
from errors import UserError

# Final returns (mean of the last five) 30, 60, 6, 200 and 90; areas by the trapezoidal rule
# 125 / 5, 60, (15 + 15) / 5, 200 and 90.
FIVE_SEEDS = {
    0: [0.0, 10, 20, 30, 40, 50],
    1: [60.0] * 6,
    2: [30.0, 0, 0, 0, 0, 30],
    3: [200.0] * 6,
    4: [90.0] * 6,
}


def compare(*folders, threshold=None, by=()):
    groups, _ = grouping.group(runs.load(folders)[0], by)
    return comparison.compare(groups, threshold, "expanded")


def test_summary_of_five_seeds_by_hand(make_run):
    tables, notes = compare(make_run("a", FIVE_SEEDS, minutes=2.0), threshold=40.0)
    row = tables["summary"].iloc[0]
    assert notes == []
    assert (row.env, row.group, row.algo) == ("Hopper-v5", "mbpo", "mbpo")
    assert (row.seeds, row.step, row.interval) == (5, 6000, "expanded")
    assert row.first_mean == pytest.approx(380 / 5)
    assert row.final_mean == pytest.approx(386 / 5)
    assert row.final_iqm == pytest.approx(60.0)  # of 30, 60 and 90
    assert (row.final_min, row.final_max) == (6.0, 200.0)
    assert row.area_mean == pytest.approx((25 + 60 + 6 + 200 + 90) / 5)
    assert row.area_iqm == pytest.approx((25 + 60 + 90) / 3)
    # The threshold 40 is reached at 5000, 1000, never, 1000 and 1000.
    assert row.threshold == 40.0
    assert row.reached == 4
    assert row.median_steps_to_threshold == 1000.0
    assert (row.runs, row.minutes_per_run) == (1, 12.0)
    assert row.hardware == "A CPU, 2 cores, cpu: cpu"
    # All 3125 resamples, and the percentiles of Hesterberg 2015 for five seeds by hand: t(0.975, 4)
    # = 2.7764, and Phi(-sqrt(5 / 4) * 2.7764) = 0.000954.
    resamples = np.array(list(itertools.product([30.0, 60, 6, 200, 90], repeat=5)))
    iqms = scipy.stats.trim_mean(resamples, 0.25, axis=1)
    expected = np.quantile(iqms, [0.000954, 1 - 0.000954], method="inverted_cdf")
    assert [row.final_iqm_low, row.final_iqm_high] == pytest.approx(expected, abs=1e-9)


@pytest.mark.usefixtures("_few_resamples")
def test_a_threshold_that_most_seeds_never_reach_has_no_median(make_run):
    tables, _ = compare(make_run("a", FIVE_SEEDS), threshold=100.0)
    assert tables["summary"]["reached"].tolist() == [1]
    assert math.isinf(tables["summary"]["median_steps_to_threshold"][0])


@pytest.mark.parametrize(
    ("first", "final", "threshold"),
    [(-5.0, 1000.0, 800.0), (0.0, 9.3, 7.4), (-300.0, -100.0, -140.0), (7.0, 7.0, 7.0)],
)
def test_default_threshold_is_four_fifths_of_the_way_rounded(make_run, first, final, threshold):
    tables, _ = compare(make_run("a", {0: [first]}), make_run("b", {0: [final]}, algo="sac"))
    assert tables["summary"]["threshold"].tolist() == pytest.approx([threshold] * 2)


@pytest.mark.usefixtures("_few_resamples")
def test_curves_have_mean_interquartile_mean_and_range_at_every_step(make_run):
    tables, _ = compare(make_run("a", FIVE_SEEDS))
    curve = tables["curves"].set_index("step")
    assert curve.index.tolist() == [1000, 2000, 3000, 4000, 5000, 6000]
    # At step 2000 the seeds have 10, 60, 0, 200 and 90.
    assert curve.loc[2000, "mean"] == 72.0
    assert curve.loc[2000, "iqm"] == pytest.approx(160 / 3)
    assert curve.loc[2000, ["min", "max", "seeds"]].tolist() == [0.0, 200.0, 5]
    assert (curve["mean_low"] <= curve["mean"]).all()
    assert (curve["iqm"] <= curve["iqm_high"]).all()


@pytest.mark.parametrize("seeds", [2, 4])
def test_fewer_than_five_seeds_have_a_range_but_no_interval(make_run, seeds):
    returns = {k: [1.0 + 2 * k, 2.0 + 4 * k] for k in range(seeds)}
    tables, _ = compare(make_run("a", returns))
    row = tables["summary"].iloc[0]
    assert np.isnan([row.final_mean_low, row.final_iqm_high]).all()
    assert (row.final_min, row.final_max) == (1.5, 1.5 + 3 * (seeds - 1))
    assert tables["curves"]["mean_low"].isna().all()
    assert tables["curves"]["max"].tolist() == [2.0 * seeds - 1, 4.0 * seeds - 2]


def test_raw_returns_name_group_run_and_seed(make_run):
    folder = make_run("a", {3: [1.0, 2.0]})
    table = compare(folder)[0]["returns"]
    assert table["run"].tolist() == [str(folder)] * 2
    assert table[["group", "seed", "step", "return"]].to_numpy().tolist() == [
        ["mbpo", 3, 1000, 1.0],
        ["mbpo", 3, 2000, 2.0],
    ]


def test_groups_are_compared_on_the_evaluations_that_all_have(make_run):
    a = make_run("a", {0: [0.0, 10, 20, 30, 40, 50, 1000, 1000]})
    b = make_run("b", {0: [6.0, 6.0]}, every=3000, algo="sac")
    tables, notes = compare(a, b, threshold=25.0)
    summary = tables["summary"].set_index("group")
    assert summary["step"].to_dict() == {"mbpo": 6000, "sac": 6000}
    # Both have steps 3000 and 6000, where a is at 20 and 50.
    assert summary.loc["mbpo", "first_mean"] == 20.0
    assert summary.loc["mbpo", "final_mean"] == 35.0
    assert summary.loc["mbpo", "area_mean"] == 35.0
    assert summary.loc["mbpo", "median_steps_to_threshold"] == 6000
    assert summary.loc["mbpo", "minutes_per_run"] == 6.0
    steps = tables["curves"].groupby("group")["step"].agg(list).to_dict()
    assert steps == {"mbpo": list(range(1000, 9000, 1000)), "sac": [3000, 6000]}
    assert notes == []


def test_how_often_a_run_is_evaluated_makes_no_difference(make_run):
    # The same ramp, a point per step: the last five evaluations of each average to 950, 800, 500.
    folders = [
        make_run(str(every), {0: list(np.arange(every, 1001, every, dtype=float))}, **fields)
        for every, fields in (
            (25, {"every": 25}),
            (100, {"every": 100, "discount": 0.9}),
            (200, {"every": 200, "discount": 0.8}),
        )
    ]
    summary = compare(*folders)[0]["summary"]
    assert summary["final_mean"].tolist() == [600.0] * 3
    assert summary["area_mean"].tolist() == [600.0] * 3


def test_groups_without_common_evaluations_are_compared_by_their_own_and_a_note_says_so(make_run):
    a = make_run("a", {0: [0.0, 10, 20, 30]}, every=500)
    b = make_run("b", {0: [6.0, 8.0]}, every=750, algo="sac")
    tables, notes = compare(a, b)
    summary = tables["summary"].set_index("group")
    assert summary["step"].to_dict() == {"mbpo": 1500, "sac": 1500}
    assert summary["final_mean"].to_dict() == {"mbpo": 10.0, "sac": 7.0}
    assert summary.loc["mbpo", "area_mean"] == 15.0  # from 1000, its first after 750
    assert notes == [
        "Hopper-v5: its groups have 1 evaluation at the same step, so each is compared by its own "
        "up to step 1,500, and their final returns average over different parts of a run."
    ]


def test_a_single_evaluation_of_every_group_at_the_same_step_needs_no_note(make_run):
    tables, notes = compare(make_run("a", {0: [1.0]}), make_run("b", {0: [2.0]}, algo="sac"))
    assert tables["summary"]["final_mean"].tolist() == [1.0, 2.0]
    assert notes == []


def test_seeds_that_lag_behind_do_not_count_until_they_have_caught_up(make_run):
    a = make_run("a", {0: [1.0] * 8})
    late = make_run("late", {1: [9.0] * 3, 2: [9.0] * 3}, total_steps=8000)
    other = make_run("other", {0: [2.0] * 3}, algo="sac", total_steps=8000)
    tables, notes = compare(a, late, other)
    assert tables["summary"][["group", "seeds", "step"]].to_numpy().tolist() == [["mbpo", 1, 8000]]
    assert tables["returns"]["seed"].unique().tolist() == [0]
    assert notes == [
        f"mbpo on Hopper-v5: seed 1, 2 of {late} is left out: it is at step 3,000, others are at "
        "8,000. It counts again once it has caught up.",
        f"sac on Hopper-v5: seed 0 of {other} is left out: it is at step 3,000, others are at "
        "8,000. It counts again once it has caught up.",
        "sac on Hopper-v5: no seed is far enough; left out.",
    ]
    half = make_run("half", {3: [9.0] * 4}, total_steps=8000)
    tables, _ = compare(a, half)
    assert tables["summary"][["seeds", "step"]].to_numpy().tolist() == [[2, 4000]]


def test_a_run_that_was_meant_to_be_short_does_not_lag_behind(make_run):
    a = make_run("a", {0: [1.0] * 8})
    short = make_run("short", {0: [2.0] * 2}, algo="sac")
    tables, notes = compare(a, short)
    assert tables["summary"]["group"].tolist() == ["mbpo", "sac"]
    assert tables["summary"]["step"].tolist() == [2000, 2000]
    assert notes == []


def test_a_curve_ends_with_its_shortest_seed_which_is_named(make_run):
    a = make_run("a", {0: [1.0, 2.0, 3.0], 1: [1.0, 2.0, 3.0]})
    b = make_run("b", {2: [5.0, 5.0]}, total_steps=3000)
    tables, notes = compare(a, b)
    assert tables["curves"]["step"].tolist() == [1000, 2000]
    assert tables["returns"]["step"].max() == 3000
    assert notes == [
        "mbpo on Hopper-v5: its curve ends at step 2,000, the last that all of its seeds have; "
        f"seed 2 of {b} ends there."
    ]


def test_epochs_without_a_finite_return_are_no_evaluations(make_run):
    returns = {0: [1.0, float("nan"), 3.0, float("inf")], 1: [5.0, 6.0, 7.0, 8.0]}
    tables, _ = compare(make_run("a", returns))
    assert tables["curves"]["step"].tolist() == [1000, 3000]
    assert tables["curves"]["mean"].tolist() == [3.0, 5.0]


def test_seeds_without_a_common_step_and_groups_that_begin_too_late_are_left_out(make_run):
    a = make_run("a", {0: [1.0]}, every=1500)
    b = make_run("b", {1: [1.0]}, every=1000)
    c = make_run("c", {0: [1.0, 2.0]}, algo="sac", discount=0.99)
    d = make_run("d", {0: [1.0]}, every=4000, algo="sac", discount=0.9)
    tables, notes = compare(a, b, c, d)
    assert tables["summary"]["group"].tolist() == ["sac, discount=0.99"]
    assert notes == [
        "mbpo on Hopper-v5: its seeds have no evaluation at the same step; left out.",
        "sac, discount=0.9 on Hopper-v5: its first evaluation, at step 4,000, is after step "
        "2,000, the last of another group; left out.",
    ]
    with pytest.raises(UserError, match="nothing to compare:\n  mbpo on Hopper-v5: its seeds have"):
        compare(a, b)


def test_probability_of_improvement_of_every_pair(make_run):
    # Of the 25 pairs (4, 5, 6, 7, 0) wins against (1, 2, 5, 1, 1): 4 + 4.5 + 5 + 5 + 0.
    a = make_run("a", {k: [x] for k, x in enumerate([1.0, 2.0, 5.0, 1.0, 1.0])})
    b = make_run("b", {k: [x] for k, x in enumerate([4.0, 5.0, 6.0, 7.0, 0.0])}, algo="sac")
    table = compare(a, b)[0]["improvement"]
    assert (
        table[["env", "group", "other"]].to_numpy().tolist() == [["Hopper-v5", "sac", "mbpo"]] * 2
    )
    assert table["measure"].tolist() == ["final", "area"]
    assert table["probability"].tolist() == pytest.approx([18.5 / 25] * 2)
    assert ((table["low"] < 18.5 / 25) & (table["high"] > 18.5 / 25)).all()


@pytest.mark.usefixtures("_few_resamples")
def test_probability_of_improvement_is_averaged_over_environments_with_the_same_groups(make_run):
    folders = [
        make_run(f"{env}-{algo}", {k: [x + k] for k in range(5)}, env=env, algo=algo)
        # Won by mbpo altogether, then a tie of five against the same five.
        for env, values in (("Hopper-v5", (10.0, 0.0)), ("Walker2d-v5", (0.0, 0.0)))
        for algo, x in zip(("mbpo", "sac"), values)
    ]
    table = compare(*folders)[0]["improvement"].set_index("env")
    found = table.loc["all environments"]
    assert found[["group", "other"]].to_numpy().tolist() == [["mbpo", "sac"]] * 2
    assert found["measure"].tolist() == ["final", "area"]
    assert found["probability"].tolist() == [0.75, 0.75]  # of 1 and 0.5
    # Resampling Hopper changes nothing, so at least half of what is won there stays.
    assert ((found["low"] >= 0.5) & (found["low"] < 0.75) & (found["high"] > 0.75)).all()
    third = make_run("third", {k: [1.0] for k in range(5)}, env="Hopper-v5", algo="cf_mbpo")
    assert "all environments" not in set(compare(*folders, third)[0]["improvement"]["env"])


def test_time_is_per_run_and_the_rest_is_a_stage(make_run):
    columns = {"time/model": 9.0, "time/policy": 40.0}
    tables, _ = compare(make_run("a", {0: [1.0, 2.0], 1: [1.0, 2.0]}, columns=columns))
    seconds = tables["time"].set_index("stage")["seconds"].to_dict()
    assert seconds == {"model fits": 18.0, "policy updates": 80.0, "everything else": 22.0}


@pytest.mark.usefixtures("_few_resamples")
def test_files_give_back_the_same_bits(make_run, tmp_path):
    rng = np.random.default_rng(0)
    a = make_run("a", {k: list(rng.normal(size=6) / 3) for k in range(3)})
    b = make_run("b", {k: list(rng.normal(size=6) / 3) for k in range(3)}, env="Walker2d-v5")
    tables, _ = compare(a, b)
    comparison.write(tables, tmp_path / "out")
    read = comparison.read(tmp_path / "out")
    assert read.keys() == tables.keys()
    for name, table in tables.items():
        pd.testing.assert_frame_equal(
            read[name], table.reset_index(drop=True), check_exact=True, check_dtype=False
        )


@pytest.mark.usefixtures("_few_resamples")
def test_missing_and_damaged_files_are_user_errors(make_run, tmp_path):
    with pytest.raises(UserError, match=r"curves.csv is missing: --redraw needs the folder"):
        comparison.read(tmp_path)
    comparison.write(compare(make_run("a", FIVE_SEEDS))[0], tmp_path)
    (tmp_path / "summary.csv").write_text("")
    with pytest.raises(UserError, match=r"summary.csv cannot be read .* Write the report again"):
        comparison.read(tmp_path)
    (tmp_path / "summary.csv").write_text("env,step\nHopper-v5,1000\n")
    with pytest.raises(UserError, match=r"summary.csv has no column group: another version"):
        comparison.read(tmp_path)
