import pandas as pd
import pytest

from analysis import findings

NAN = float("nan")


def row(group, final, low=NAN, high=NAN, seeds=5, minutes=10.0, area=None, **fields):
    """A row of summary.csv."""
    area = final if area is None else area
    around = (area - 1, area + 1) if seeds >= 5 else (NAN, NAN)
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
        "- mbpo took 0:25:00 (h:mm:ss) per run of 5 seeds, 2.5 times as long as sac (0:10:00 "
        "per run of 5 seeds).",
    ]


def test_a_difference_that_the_seeds_do_not_establish():
    text = finding(
        [row("sac", 400, 300, 500, area=9.0), row("mbpo", 450, 320, 600, area=9.5)],
        [("mbpo", "sac", "final", 0.7, 0.4, 1.0), ("mbpo", "sac", "area", 0.6, 0.2, 0.9)],
    )
    assert "- The seeds do not establish that mbpo beats sac (0.70, 0.40 to 1.00);" in text
    assert "also mbpo is first with 9.5 (8.5 to 10.5), which the seeds do not establish" in text
    assert "took 0:10:00 (h:mm:ss) per run of 5 seeds, about as long as sac." in text


def test_a_pair_that_is_stored_the_other_way_round_has_its_interval_mirrored():
    # Over the whole run sac is first: 1 - 0.3, from 1 - 0.6 to 1 - 0.0.
    pairs = [("mbpo", "sac", "final", 0.9, 0.6, 1.0), ("mbpo", "sac", "area", 0.3, 0.0, 0.6)]
    text = finding([row("sac", 1, 0, 2, area=9.5), row("mbpo", 2, 1, 3, area=9.0)], pairs)
    assert "sac is first with 9.5 (8.5 to 10.5), which the seeds do not establish" in text
    pairs[1] = ("mbpo", "sac", "area", 0.3, 0.0, 0.4)
    text = finding([row("sac", 1, 0, 2, area=9.5), row("mbpo", 2, 1, 3, area=9.0)], pairs)
    assert "sac is first with 9.5 (8.5 to 10.5), established over mbpo" in text


def test_intervals_of_the_means_that_are_apart_establish_nothing():
    rows = [row("sac", 400, 300, 449), row("mbpo", 500, 450, 600)]
    pairs = [("mbpo", "sac", measure, 0.9, 0.5, 1.0) for measure in ("final", "area")]
    assert "do not establish that mbpo beats sac (0.90, 0.50 to 1.00)" in finding(rows, pairs)


def test_established_open_and_undecidable_are_told_apart():
    rows = [row("a", 9, 8, 10), row("b", 8, 7, 9), row("c", 1, 0, 2), row("d", 2, seeds=2)]
    values = {"b": (0.6, 0.3, 0.9), "c": (1.0, 0.9, 1.0), "d": (1.0, NAN, NAN)}
    pairs = [("a", other, m, *v) for other, v in values.items() for m in ("final", "area")]
    assert (
        "- The seeds establish that a beats c (1.00, 0.90 to 1.00) but do not establish that it "
        "beats b (0.60, 0.30 to 0.90); in brackets the probability of improvement and its 95 % "
        "interval. Too few seeds to establish anything about d."
    ) in finding(rows, pairs)


@pytest.mark.parametrize("seeds", [2, 4])
def test_fewer_than_five_seeds_have_their_range_and_establish_nothing(seeds):
    pairs = [("mbpo", "sac", measure, 1.0, NAN, NAN) for measure in ("final", "area")]
    text = finding([row("sac", 40, seeds=seeds), row("mbpo", 50, seeds=seeds)], pairs)
    assert "**50** [1.5 to 99.5]: 10 more than sac, 40 [1.5 to 99.5]. In brackets the range" in text
    assert (
        f"- With {seeds} seeds there are too few to establish anything: that takes 5 in each group."
    ) in text
    assert "seeds establish" not in text
    assert "seeds do not establish" not in text
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
        "of **50** (40 to 60), from 12 at the first evaluation, in 0:10:00 (h:mm:ss) per run of 5 "
        "seeds. In brackets 95 % intervals. There is no other group to compare it with."
    )


@pytest.mark.parametrize("fields", [{"hardware": "B"}, {"runs": 5}])
def test_times_on_other_hardware_or_with_other_runs_are_not_compared(fields):
    pairs = [("mbpo", "sac", measure, 0.6, 0.3, 0.9) for measure in ("final", "area")]
    text = finding([row("sac", 40, 30, 50, **fields), row("mbpo", 50, 40, 60)], pairs)
    assert "not comparable" in text
    assert "times as" not in text


@pytest.mark.parametrize("minutes", [NAN, 0.0])
def test_nothing_is_said_about_times_that_are_unknown(minutes):
    pairs = [("mbpo", "sac", measure, 0.6, 0.3, 0.9) for measure in ("final", "area")]
    rows = [row("sac", 40, 30, 50, minutes=minutes), row("mbpo", 50, 40, 60, minutes=minutes)]
    assert " took " not in finding(rows, pairs)
    rows[1]["minutes_per_run"] = 10.0
    assert " took " not in finding(rows, pairs)
    alone = finding([row("mbpo", 50, 40, 60, minutes=minutes)])
    assert "from 12 at the first evaluation. In brackets" in alone


def test_long_times_are_readable():
    assert "in 26:40:00 (h:mm:ss) per run" in finding([row("mbpo", 50, 40, 60, minutes=1600.0)])


def everywhere(values, seeds=5):
    """The finding over two environments, given (probability, low, high) by pair of groups."""
    rows = [
        row(group, 1, 0, 2, seeds=seeds, env=env) for env in ("Hopper-v5", "A") for group in "abc"
    ]
    found = tables(rows)
    columns = found["improvement"].columns
    pairs = [("all environments", *pair, "final", *v) for pair, v in values.items()]
    pairs += [("Hopper-v5", "c", "a", "final", 1.0, 0.9, 1.0)]
    found["improvement"] = pd.DataFrame(pairs, columns=columns)
    return findings.everywhere(found)


def test_over_all_environments_the_group_that_wins_most_is_compared_with_the_others():
    # Wins of a: 0.1 + 0.6, of b: 0.9 + 0.8, of c: 0.4 + 0.2. Of b over a: 1 - 0.3 to 1 - 0.0.
    values = {"ab": (0.1, 0.0, 0.3), "ac": (0.6, 0.2, 0.9), "bc": (0.8, 0.4, 1.0)}
    assert everywhere(values) == (
        "**All 2 environments**: by the final return, each environment counting alike, **b** is "
        "first. The seeds establish that b beats a (0.90, 0.70 to 1.00) but do not establish that "
        "it beats c (0.80, 0.40 to 1.00); in brackets the probability of improvement and its 95 % "
        "interval."
    )


def test_over_all_environments_too_few_seeds_establish_nothing():
    text = everywhere(dict.fromkeys(("ab", "ac", "bc"), (0.9, NAN, NAN)), seeds=3)
    assert text.endswith(
        "With 3 seeds there are too few to establish anything: that takes 5 in each group."
    )


def test_without_an_average_over_environments_nothing_is_said_about_it():
    assert everywhere({}) == ""
