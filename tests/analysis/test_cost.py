import math

import pytest

from analysis import cost, grouping, runs


def single_group(*folders):
    groups, _ = grouping.group(runs.load(folders)[0])
    assert len(groups) == 1
    return groups[0]


def test_totals_are_per_run_up_to_a_step(make_run):
    # Two seeds in one run of 1 min per 1000 steps, a third alone in one of 3 min.
    a = make_run("a", {0: [1.0] * 4, 1: [1.0] * 4}, minutes=1.0)
    b = make_run("b", {2: [1.0] * 4}, minutes=3.0)
    totals = cost.totals(single_group(a, b), last=2000)
    assert totals["runs"] == 2
    assert totals["minutes_per_run"] == pytest.approx((2 + 6) / 2)
    assert totals["hardware"] == "A CPU, 2 cores, cpu: cpu"


def test_stages_are_averaged_over_runs_and_seeds_of_a_run_share_theirs(make_run):
    a = make_run("a", {0: [1.0] * 4, 1: [1.0] * 4}, columns={"time/model": 20.0})
    b = make_run("b", {2: [1.0] * 4}, columns={"time/model": 40.0, "time/policy": 5.0})
    stages = cost.stages(single_group(a, b), last=3000)
    assert stages == pytest.approx(
        {
            "model fits": (60 + 120) / 2,
            "policy updates": 15 / 2,
            "everything else": (180 - 60 + 180 - 135) / 2,
        }
    )


def test_a_run_that_has_not_recorded_its_time_has_none(make_run):
    nan = float("nan")
    group = single_group(make_run("a", {0: [1.0] * 2}, minutes=nan, columns={"time/model": 20.0}))
    assert math.isnan(cost.totals(group, last=2000)["minutes_per_run"])
    assert cost.stages(group, last=2000) == {"model fits": 40.0, "everything else": 0.0}
