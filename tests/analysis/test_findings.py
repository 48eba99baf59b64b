import pandas as pd
import pytest

from analysis import findings

NAN = float("nan")


def row(group, final, low=NAN, high=NAN, seeds=5, minutes=10.0, area=None, **fields):
    """A row of summary.csv."""
    area = final if area is None else area
    around = (area - 1, area + 1) if seeds > 2 else (NAN, NAN)
    scores = {"final": (final, low, high), "area": (area, *around)}
    spread = {
        f"{measure}_{name}": value
        for measure, values in scores.items()
        for name, value in zip(("mean", "mean_low", "mean_high"), values)
    }
    ends = {"final_min": 1.5, "final_max": 99.5, "area_min": 2.5, "area_max": 88.5}
    rest = {"env": "Hopper-v5", "step": 20_000, "first_mean": 12.0, "runs": 1, "hardware": "A"}
    known = {"group": group, "seeds": seeds, "minutes_per_run": minutes}
    return rest | known | spread | ends | fields


def tables(rows, pairs=()):
    columns = ["env", "group", "other", "measure", "probability", "low", "high"]
    improvement = [("Hopper-v5", *pair) for pair in pairs]
    return {
        "summary": pd.DataFrame(rows),
        "improvement": pd.DataFrame(improvement, columns=columns),
    }


def finding(rows, pairs=()):
    return findings.finding(tables(rows, pairs), "Hopper-v5")


def test_a_difference_that_the_seeds_establish():
    text = finding(
        [row("sac", 400, 300, 500), row("mbpo", 1234, 450, 1300, minutes=25.0, area=300)],
        [("mbpo", "sac", "final", 0.96, 0.7, 1.0), ("mbpo", "sac", "area", 0.1, 0.0, 0.4)],
    )
    lead, *points = text.replace("\n\n", "\n").splitlines()
    assert lead == (
        "**Hopper-v5**: after 20,000 environment steps per seed, **mbpo** has the highest final "
        "return, **1,234** (450 to 1,300): 834 more than sac, 400 (300 to 500). "
        "In brackets 95 % intervals."
    )
    assert points == [
        "- The seeds establish that mbpo beats sac (0.96, 0.70 to 1.00); in brackets the "
        "probability of improvement and its 95 % interval.",
        # The complement of 0.0 to 0.4.
        "- By the mean return over the run, sac is first with 400 (399 to 401), established over "
        "mbpo.",
        "- mbpo took 25 min per run of 5 seeds, 2.5 times as long as sac (10 min per run of 5 "
        "seeds).",
    ]


def test_a_difference_that_the_seeds_do_not_establish():
    text = finding(
        [row("sac", 400, 300, 500, area=9.0), row("mbpo", 450, 320, 600, area=9.5)],
        [("mbpo", "sac", "final", 0.7, 0.4, 1.0), ("mbpo", "sac", "area", 0.6, 0.2, 0.9)],
    )
    assert "- The seeds do not establish that mbpo beats sac (0.70, 0.40 to 1.00);" in text
    assert "also mbpo is first with 9.5 (8.5 to 10.5), which the seeds do not establish" in text
    assert "took 10 min per run of 5 seeds, about as long as sac." in text


def test_a_pair_that_is_stored_the_other_way_round_has_its_interval_mirrored():
    # Over the whole run sac is first: 1 - 0.3, from 1 - 0.6 to 1 - 0.0.
    pairs = [("mbpo", "sac", "final", 0.9, 0.6, 1.0), ("mbpo", "sac", "area", 0.3, 0.0, 0.6)]
    text = finding([row("sac", 1, 0, 2, area=9.5), row("mbpo", 2, 1, 3, area=9.0)], pairs)
    assert "sac is first with 9.5 (8.5 to 10.5), which the seeds do not establish" in text
    pairs[1] = ("mbpo", "sac", "area", 0.3, 0.0, 0.4)
    text = finding([row("sac", 1, 0, 2, area=9.5), row("mbpo", 2, 1, 3, area=9.0)], pairs)
    assert "sac is first with 9.5 (8.5 to 10.5), established over mbpo" in text


def test_intervals_of_the_means_that_are_apart_establish_too():
    rows = [row("sac", 400, 300, 449), row("mbpo", 500, 450, 600)]
    pairs = [("mbpo", "sac", measure, 1.0, 0.48, 1.0) for measure in ("final", "area")]
    assert "establish that mbpo beats sac (1.00, 0.48 to 1.00)" in finding(rows, pairs)
    rows[0]["final_mean_high"] = 450
    assert "do not establish that mbpo beats sac (1.00, 0.48 to 1.00)" in finding(rows, pairs)


def test_established_open_and_undecidable_are_told_apart():
    rows = [row("a", 9, 8, 10), row("b", 8, 7, 9), row("c", 1, 0, 2), row("d", 2, seeds=2)]
    values = {"b": (0.6, 0.3, 0.9), "c": (1.0, 0.9, 1.0), "d": (1.0, NAN, NAN)}
    pairs = [("a", other, m, *v) for other, v in values.items() for m in ("final", "area")]
    assert (
        "- The seeds establish that a beats c (1.00, 0.90 to 1.00) but do not establish that it "
        "beats b (0.60, 0.30 to 0.90); in brackets the probability of improvement and its 95 % "
        "interval. Too few seeds to tell: d."
    ) in finding(rows, pairs)


def test_two_seeds_have_their_range_and_establish_nothing():
    pairs = [("mbpo", "sac", measure, 1.0, NAN, NAN) for measure in ("final", "area")]
    text = finding([row("sac", 40, seeds=2), row("mbpo", 50, seeds=2)], pairs)
    assert "**50** [1.5 to 99.5]: 10 more than sac, 40 [1.5 to 99.5]. In brackets the range" in text
    assert "- With 2 seeds this ranking is no more than a first impression." in text
    assert "establish" not in text
    assert "nan" not in text


def test_groups_that_share_the_first_place_are_all_named():
    rows = [row("a", 1000, 1000, 1000), row("b", 1000, 1000, 1000), row("c", 3, 2, 4)]
    pairs = [("a", "b", "final", 0.5, 0.5, 0.5), ("a", "c", "final", 1.0, 1.0, 1.0)]
    pairs += [(*pair[:2], "area", *pair[3:]) for pair in pairs]
    text = finding(rows, pairs)
    assert "**a** and **b** share the highest final return, **1,000** (1,000 to 1,000)." in text


def test_one_group_is_reported_without_a_comparison():
    assert finding([row("mbpo", 50, 40, 60)]) == (
        "**Hopper-v5**: after 20,000 environment steps per seed, **mbpo** reaches a final return "
        "of **50** (40 to 60), from 12 at the first evaluation, in 10 min per run of 5 seeds. "
        "In brackets 95 % intervals. There is no other group to compare it with."
    )


@pytest.mark.parametrize("fields", [{"hardware": "B"}, {"runs": 5}])
def test_times_on_other_hardware_or_with_other_runs_are_not_compared(fields):
    pairs = [("mbpo", "sac", measure, 0.6, 0.3, 0.9) for measure in ("final", "area")]
    text = finding([row("sac", 40, 30, 50, **fields), row("mbpo", 50, 40, 60)], pairs)
    assert "not comparable" in text
    assert "times as" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (-100.4, "-100"),
        (56.78, "56.8"),
        (1.2345, "1.23"),
        (7.0, "7"),
        (float("inf"), "–"),
        (NAN, "–"),
    ],
)
def test_numbers_are_as_long_as_they_need_to_be(value, text):
    assert findings.number(value) == text
