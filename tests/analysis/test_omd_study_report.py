import itertools

import numpy as np
import pandas as pd
import pytest

from analysis import omd_study, omd_study_report
from analysis.omd_study import DISTRACTORS, WIDTH, Pair, Tables
from analysis.statistics import Estimate

NAN = float("nan")


def rows(algo, width, distractors, returns, error=1.0, q=50.0, steps=3000):
    return [
        (algo, width, distractors, seed, value, error, q, steps, 100.0, steps < 3000)
        for seed, value in enumerate(returns)
    ]


def table(*groups):
    return pd.DataFrame(itertools.chain(*groups), columns=omd_study._POINT_COLUMNS)


@pytest.fixture
def points():
    """Five seeds: omd beats mle at width 2, all at 16 distractors overlap, vep has one point."""
    low, high = [40.0, 45, 50, 55, 60], [300.0, 325, 350, 375, 400]
    return table(
        rows("omd", 2, 0, high, error=5.0),
        rows("mle", 2, 0, low, error=0.25),
        rows("vep", 2, 0, low, q=1e6),
        rows("omd", 32, 16, [1.0, 3, 5, 7, 9]),
        rows("mle", 32, 16, [2.0, 4, 6, 8, 10], q=100.5),
    )


@pytest.fixture
def report(points):
    return omd_study_report.report(points)


pytestmark = pytest.mark.usefixtures("_few_resamples")


def pair(level, value, low, high, names=("omd", "mle")):
    return Pair(*names, level, Estimate(*map(np.float64, (value, low, high))))


def test_orderings_are_sorted_by_whether_they_are_established():
    compared = [
        pair(1, 0.9, 0.6, 1.0),
        pair(2, 0.8, 0.51, 1.0),
        pair(3, 0.6, 0.4, 0.8),
        pair(4, 0.6, 0.5, 0.8),  # not clear of a half
        pair(6, 0.1, 0.0, 0.4),
        pair(12, 0.9, NAN, NAN),
    ]
    # Published: omd is ahead at widths 1, 2 and 3, mle at 4, 6 and 12.
    assert omd_study_report.finding(compared, WIDTH) == (
        "**Model width**\n\n"
        "- **omd against mle**: omd is better at widths 1 and 2; mle is better at width 6; not "
        "established at widths 3 and 4; too few seeds at width 12. The more probable winner is "
        "the published one at 4 of 6 widths."
    )


def test_what_was_not_published_is_not_compared_with_it():
    compared = [pair(16, 1.0, 0.7, 1.0, ("omd", "vep")), pair(16, 0.9, 0.4, 1.0)]
    lines = omd_study_report.finding(compared, DISTRACTORS).splitlines()[2:]
    assert lines == [
        "- **omd against vep**: omd is better at distractor count 16.",
        # Published: 405 against 439.
        "- **omd against mle**: not established at distractor count 16. The more probable winner "
        "is the published one at 0 of 1 distractor count.",
    ]


def test_the_report_says_what_was_run(report):
    setting = report.split("\n\n")[1]
    assert "after 3,000 environment steps, 5 seeds per point" in setting
    assert "the published values are after 200,000." in setting
    # 25 seeds with 3,000 steps in five runs of 100 seconds
    assert "5 runs took 0:08:20 (h:mm:ss) one after the other, 150 environment steps" in setting
    assert "**Not finished, so not in here: vep at distractor count 16.**" in setting
    assert report.endswith(
        "python benchmarks/omd_study.py --steps=3000 --seeds=5 --algos=omd,mle,vep --widths=2 "
        "--distractors=16\n```\n"
    )


def test_a_point_whose_critics_overflowed_is_named_with_its_step(points):
    cut = table(rows("vep", 32, 16, [9.0] * 5, steps=2000))
    text = omd_study_report.report(pd.concat([points, cut]))
    assert "after 3,000 environment steps" in text
    assert "up to there: vep at distractor count 16 (step 2,000).**" in text
    assert "Not finished" not in text
    assert "--steps=3000 " in text


def test_the_finding_names_what_is_established(report):
    assert "- **omd against mle**: omd is better at width 2. The more" in report
    assert "- **omd against mle**: not established at distractor count 16. The more" in report
    assert "so in 0.1 of the 4 made here" in report  # 3 % of 4


def test_returns_stand_beside_the_published_ones(report):
    # t of five seeds 2.776, times a standard deviation of 39.53 or 7.906, by sqrt(5)
    assert "| 2 | 350 ± 49.1 | 338 ± 61 | 50 ± 9.82 | 63 ± 44 | 50 ± 9.82 | 110 ± 47 |" in report
    assert "| 16 | 5 ± 3.93 | 405 ± 54 | 6 ± 3.93 | 439 ± 50 | – | – |" in report
    # all of five pairs won: at least 0.05 to the power of a fifth
    assert "| 2 | **1.00 (0.55 to 1.00)** | **1.00 (0.55 to 1.00)** | 0.50 (" in report


def test_two_seeds_have_a_range_instead_of_an_interval():
    report = omd_study_report.report(table(rows("omd", 2, 0, [10.0, 20.0]), rows("mle", 2, 0, [5])))
    assert "| 2 | 10 to 20 | 338 ± 61 | 5 | 63 ± 44 |" in report
    assert "too few seeds at width 2" in report
    assert "nan" not in report


def test_errors_of_the_model_stand_beside_table_1(report):
    assert "| 2 | 5 (5 to 5) | 5.8 | 0.25 (0.25 to 0.25) | 0.4 | 1 (1 to 1) | – |" in report
    assert "predicted by omd at width 2 are worse than those of an untrained model" in report


def test_values_that_no_policy_can_have_are_counted(report):
    assert "in 0 of 10 of omd, 5 of 10 of mle and 5 of 5 of vep runs" in report


def test_tables_alone_make_report_and_figures(tmp_path, points):
    curves = [(1000, *point, 1.0) for point in points.iloc[:, :4].to_numpy().tolist()]
    columns = ["env_step", "algo", "width", "distractors", "seed", "eval/return"]
    omd_study.write(Tables(points, pd.DataFrame(curves, columns=columns)), tmp_path)
    omd_study_report.write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(omd_study_report.FILES)
    text = (tmp_path / "report.md").read_text()
    assert str(tmp_path) not in text
    for name in omd_study_report.FILES:
        assert f"]({name})" in text or not name.endswith(".png")


def test_half_a_study_has_half_a_report():
    report = omd_study_report.report(table(rows("omd", 32, 16, [1.0, 2.0, 3.0])))
    assert "## Distracting dimensions" in report
    assert "odel width" not in report
    assert "model_error.png" not in report
    assert "established" not in report  # there is nothing to compare
