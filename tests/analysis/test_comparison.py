import math

import numpy as np
import pandas as pd
import pytest

from analysis import comparison, grouping, runs, statistics
from errors import UserError

# Final returns (mean of the last five) 30, 60, 6 and 200; areas by the trapezoidal rule 125 / 5,
# 60, (15 + 15) / 5 and 200.
FOUR_SEEDS = {
    0: [0.0, 10, 20, 30, 40, 50],
    1: [60.0] * 6,
    2: [30.0, 0, 0, 0, 0, 30],
    3: [200.0] * 6,
}


def compare(*folders, threshold=None, by=()):
    groups, _ = grouping.group(runs.load(folders)[0], by)
    return comparison.compare(groups, threshold, "expanded")


def test_summary_of_four_seeds_by_hand(make_run):
    tables, notes = compare(make_run("a", FOUR_SEEDS, minutes=2.0), threshold=40.0)
    row = tables["summary"].iloc[0]
    assert notes == []
    assert (row.env, row.group, row.algo) == ("Hopper-v5", "mbpo", "mbpo")
    assert (row.seeds, row.step, row.interval) == (4, 6000, "expanded")
    assert row.first_mean == pytest.approx(72.5)
    assert row.final_mean == pytest.approx(74.0)
    assert row.final_iqm == pytest.approx(45.0)  # of 30 and 60
    assert (row.final_min, row.final_max) == (6.0, 200.0)
    assert row.area_mean == pytest.approx((25 + 60 + 6 + 200) / 4)
    assert row.area_iqm == pytest.approx((25 + 60) / 2)
    # The threshold 40 is reached at 5000, 1000, never and 1000.
    assert row.threshold == 40.0
    assert row.reached == 3
    assert row.median_steps_to_threshold == 3000.0
    assert (row.runs, row.minutes_per_run) == (1, 12.0)
    assert row.hardware == "A CPU, 2 cores, cpu: cpu"
    expected = statistics.bootstrap(np.array([30.0, 60, 6, 200]), statistics.iqm)
    assert (row.final_iqm_low, row.final_iqm_high) == (expected.low, expected.high)


@pytest.mark.usefixtures("_few_resamples")
def test_a_threshold_that_most_seeds_never_reach_has_no_median(make_run):
    tables, _ = compare(make_run("a", FOUR_SEEDS), threshold=100.0)
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
    tables, _ = compare(make_run("a", FOUR_SEEDS))
    curve = tables["curves"].set_index("step")
    assert curve.index.tolist() == [1000, 2000, 3000, 4000, 5000, 6000]
    # At step 2000 the seeds have 10, 60, 0 and 200.
    assert curve.loc[2000, "mean"] == 67.5
    assert curve.loc[2000, "iqm"] == 35.0
    assert curve.loc[2000, ["min", "max", "seeds"]].tolist() == [0.0, 200.0, 4]
    assert (curve["mean_low"] <= curve["mean"]).all()
    assert (curve["iqm"] <= curve["iqm_high"]).all()


def test_two_seeds_have_a_range_but_no_interval(make_run):
    tables, _ = compare(make_run("a", {0: [1.0, 2.0], 1: [3.0, 6.0]}))
    row = tables["summary"].iloc[0]
    assert np.isnan([row.final_mean_low, row.final_iqm_high]).all()
    assert (row.final_mean, row.final_min, row.final_max) == (3.0, 1.5, 4.5)
    assert tables["curves"]["mean_low"].isna().all()
    assert tables["curves"]["max"].tolist() == [3.0, 6.0]


def test_raw_returns_name_group_run_and_seed(make_run):
    folder = make_run("a", {3: [1.0, 2.0]})
    table = compare(folder)[0]["returns"]
    assert table["run"].tolist() == [str(folder)] * 2
    assert table[["group", "seed", "step", "return"]].to_numpy().tolist() == [
        ["mbpo", 3, 1000, 1.0],
        ["mbpo", 3, 2000, 2.0],
    ]


def test_groups_are_compared_at_the_last_step_that_all_have_reached(make_run):
    a = make_run("a", {0: [0.0, 10, 20, 30, 40, 50, 1000, 1000]})
    b = make_run("b", {0: [6.0, 6.0]}, every=3000, algo="sac")
    tables, notes = compare(a, b)
    summary = tables["summary"].set_index("group")
    assert summary["step"].to_dict() == {"mbpo": 6000, "sac": 6000}
    assert summary.loc["mbpo", "final_mean"] == 30.0
    # Areas from step 3000, the first that both have: 20, 30, 40, 50.
    assert summary.loc["mbpo", "area_mean"] == pytest.approx((10 + 30 + 40 + 25) / 3)
    assert summary.loc["mbpo", "minutes_per_run"] == 6.0
    assert tables["curves"].groupby("group")["step"].max().to_dict() == {"mbpo": 8000, "sac": 6000}
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
    c = make_run("c", {0: [1.0, 2.0]}, algo="sac")
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
    # Of the nine pairs (4, 5, 6) wins against (1, 2, 5): 3 + 3 + 1.5; the area likewise.
    a = make_run("a", {0: [1.0], 1: [2.0], 2: [5.0]})
    b = make_run("b", {0: [4.0], 1: [5.0], 2: [6.0]}, algo="sac")
    table = compare(a, b)[0]["improvement"]
    assert table[["group", "other"]].to_numpy().tolist() == [["sac", "mbpo"]] * 2
    assert table["measure"].tolist() == ["final", "area"]
    assert table["probability"].tolist() == pytest.approx([7.5 / 9] * 2)
    assert ((table["low"] < 7.5 / 9) & (table["high"] > 7.5 / 9)).all()


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
    comparison.write(compare(make_run("a", FOUR_SEEDS))[0], tmp_path)
    (tmp_path / "summary.csv").write_text("")
    with pytest.raises(UserError, match=r"summary.csv cannot be read .* Write the report again"):
        comparison.read(tmp_path)
