import functools
import json
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest

from analysis import omd_study
from analysis.omd_study import DISTRACTORS, WIDTH, Point, Tables
from benchmarks.omd_study import has_ended
from benchmarks.running import is_finished
from errors import UserError
from experiment import metrics
from experiment.metrics import MetricsWriter

SETTING = ["algo", "width", "distractors", "seed"]


def write_run(folder, rows):
    """Writes a run of two seeds; the second has ten times the values of the first."""
    writer = MetricsWriter(
        folder, [0, 1], tensorboard=False, wandb="off", wandb_project="", config={}
    )
    for index, row in enumerate(rows):
        clock = {"wall_clock": 60.0 * (index + 1)}
        tenfold = {name: 10 * value for name, value in row.items()}
        writer.write(1000 * (index + 1), [row | clock, tenfold | clock])


def points(**returns):
    """Returns points.csv with these returns at width 2; one value per seed."""
    rows = [
        (algo, 2, 0, seed, value, 1.0, 50.0, 1000, 60.0, False)
        for algo, values in returns.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=omd_study._POINT_COLUMNS)


def only_pair(table):
    (pair,) = omd_study.pairs(table, WIDTH)
    return pair


def test_runs_become_final_values_and_thinned_curves(tmp_path):
    rows = [
        {
            "eval/return": float(index),
            "model/next_state_mse": 2.0 * index,
            "critic/q": -1.0 * index,
        }
        for index in range(1, 14)
    ]
    rows[0] = {"eval/return": 1.0}  # before learning there is nothing else
    point = Point("omd", 2, 0)
    write_run(tmp_path / "run", rows)
    tables = omd_study.collect([(point, tmp_path / "run")])
    # The last ten are 4 to 13, whose mean is 8.5; thirteen epochs take 780 seconds.
    assert tables.points.to_numpy().tolist() == [
        ["omd", 2, 0, 0, 8.5, 17.0, -8.5, 13_000, 780.0, False],
        ["omd", 2, 0, 1, 85.0, 170.0, -85.0, 13_000, 780.0, False],
    ]
    assert tables.curves.to_numpy().tolist() == [
        [step, "omd", 2, 0, seed, scale * step / 1000]
        for seed, scale in ((0, 1.0), (1, 10.0))
        for step in (3000, 8000, 13_000)
    ]


def test_a_run_that_diverged_is_read_up_to_the_epoch_before(tmp_path):
    row = {"eval/return": 9.0, "model/next_state_mse": 1.0, "critic/q": 90.0}
    write_run(tmp_path / "run", [row, row, row | {"critic/q": float("inf")}])
    assert metrics.diverged(tmp_path / "run")
    table = omd_study.collect([(Point("vep", 2, 0), tmp_path / "run")]).points
    assert table["steps"].tolist() == [2000, 2000]
    assert table["q"].tolist() == [90.0, 900.0]
    assert omd_study.cut_short(table) == ["vep at width 2 (step 2,000)"]


def test_a_run_that_diverged_has_ended(tmp_path):
    row = {"eval/return": 9.0, "critic/q": 90.0}
    write_run(tmp_path / "run", [row, row, row | {"critic/q": float("nan")}])
    write_run(tmp_path / "first", [row | {"critic/q": float("nan")}])
    write_run(tmp_path / "stopped", [row, row])
    ended = functools.partial(has_ended, tmp_path / "run")
    assert ended(Namespace(steps=4000, seeds=2))
    assert not ended(Namespace(steps=2000, seeds=2))  # a part of a longer study
    assert not ended(Namespace(steps=4000, seeds=10))
    for nothing in ("first", "stopped", "none"):
        assert not has_ended(tmp_path / nothing, Namespace(steps=4000, seeds=2))


def test_a_cell_without_a_value_is_no_divergence(tmp_path):
    write_run(tmp_path / "run", [{"eval/return": 9.0, "critic/q": 1.0}, {"eval/return": 9.0}])
    assert not metrics.diverged(tmp_path / "run")
    assert not metrics.diverged(tmp_path / "none")


def test_a_run_is_finished_when_all_seeds_are_at_the_last_step(tmp_path):
    write_run(tmp_path / "run", [{"eval/return": 1.0}] * 3)
    assert is_finished(tmp_path / "run", steps=3000, seeds=2)
    assert not is_finished(tmp_path / "run", steps=4000, seeds=2)
    assert not is_finished(tmp_path / "run", steps=3000, seeds=3)
    path = tmp_path / "run" / "metrics" / "seed_1.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not is_finished(tmp_path / "run", steps=3000, seeds=2)
    assert not is_finished(tmp_path / "none", steps=3000, seeds=2)


def test_a_run_with_other_settings_is_not_this_one_finished(tmp_path):
    write_run(tmp_path / "run", [{"eval/return": 1.0}] * 3)
    config = {"algo": "omd", "model": {"hidden_width": 2}}
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": config, "environment": {}}))
    for settings, same in [
        ({"algo": "omd", "model.hidden_width": 2}, True),
        ({"algo": "omd", "model.hidden_width": 3}, False),
        ({"algo": "omd", "a.younger.field": 1}, False),
    ]:
        assert is_finished(tmp_path / "run", steps=3000, seeds=2, settings=settings) is same


def test_tables_survive_being_written(tmp_path):
    curves = pd.DataFrame(
        [(5000, "omd", 2, 0, 0, 1 / 3)], columns=["env_step", *SETTING, "eval/return"]
    )
    tables = Tables(points(omd=[0.1, 2 / 3]), curves)
    tables.points.loc[1, "diverged"] = True
    omd_study.write(tables, tmp_path / "new")
    for written, given in zip(omd_study.read(tmp_path / "new"), tables):
        pd.testing.assert_frame_equal(written, given, check_exact=True)


@pytest.mark.parametrize("content", [None, "", "algo,width\nomd,2\n"])
def test_tables_that_cannot_be_used_are_a_user_error(tmp_path, content):
    if content is not None:
        (tmp_path / "points.csv").write_text(content)
    with pytest.raises(UserError, match=r"points\.csv cannot be used.*--report-only"):
        omd_study.read(tmp_path)


def test_the_two_axes_share_no_point():
    table = pd.DataFrame([("omd", 32, 0, 0), ("omd", 32, 16, 0), ("mle", 2, 0, 0)], columns=SETTING)
    assert omd_study.levels(table, WIDTH) == [2, 32]
    assert omd_study.levels(table, DISTRACTORS) == [16]
    assert [Point("omd", 32, 16).name, Point("omd", 32, 0).name] == ["omd_noise16", "omd_width32"]


@pytest.mark.usefixtures("_few_resamples")
def test_an_ordering_is_established_where_the_interval_is_clear_of_a_half():
    low, high, between = [1.0, 2, 3, 4, 5], [6.0, 7, 8, 9, 10], [0.0, 2.5, 3.5, 8, 9]
    pair = only_pair(points(omd=high, mle=low))
    # All of five pairs without a common run won: at least 0.05 to the power of a fifth.
    assert pair[:3] == ("omd", "mle", 2)
    np.testing.assert_allclose(pair.estimate, [1.0, 0.05**0.2, 1.0])
    assert pair.better == "omd"
    assert only_pair(points(omd=low, mle=high)).better == "mle"
    assert only_pair(points(omd=low, mle=between)).better is None


def test_too_few_seeds_establish_nothing():
    pair = only_pair(points(omd=[9.0, 9, 9, 9], mle=[1.0, 1, 1, 1]))
    assert pair.estimate.value == 1.0
    assert np.isnan(pair.estimate.low)
    assert pair.better is None


@pytest.mark.usefixtures("_few_resamples")
def test_levels_that_only_one_algorithm_has_are_missing_and_not_compared():
    alone = points(omd=[1.0] * 5).assign(width=4)
    table = pd.concat([points(omd=[2.0] * 5, mle=[1.0] * 5), alone])
    assert [pair.level for pair in omd_study.pairs(table, WIDTH)] == [2]
    assert omd_study.missing(table) == ["mle at width 4"]
    assert omd_study.missing(points(omd=[1.0], mle=[1.0])) == []


def test_published_returns_are_those_of_the_paper():
    over_width, over_noise = map(omd_study.published_returns, (WIDTH, DISTRACTORS))
    assert over_width["omd", 1] == (218, 60)
    assert over_width["mle", 12] == (500, 30)
    assert over_noise["omd", 128] == (227, 47)
    assert [len(over_width), len(over_noise)] == [18, 12]


def test_errors_are_averaged_on_a_logarithmic_scale():
    mean, low, high = omd_study.log_interval(np.array([1.0, 100.0, 10_000.0]))
    factor = 100 ** (4.302653 / np.sqrt(3))  # Student's t of three seeds, for 95 %
    np.testing.assert_allclose([mean, low, high], [100, 100 / factor, 100 * factor], rtol=1e-6)
    assert np.isnan(omd_study.log_interval(np.array([1.0, 100.0]))[1:]).all()
