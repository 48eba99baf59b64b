import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from analysis import published_curves

DHMBPO = ["DHMBPO UTD1", "DHMBPO UTD2"]
BAND, SAC = "MBPO (published 2019)", "SAC (erl_lib 3x256)"


def names(env, *algos, last=400_000):
    return sorted(set(published_curves.relevant(env, algos, last)["algorithm"]))


def test_every_row_has_what_makes_it_usable_and_none_is_there_twice():
    table = published_curves.read()
    assert len(table) == 2903
    assert table["env_version"].isin(["v2", "v4"]).all()
    assert table["source"].str.startswith("github.com/").all()
    assert np.isfinite(table[["env_step", "mean", "std"]].to_numpy()).all()
    curve = ["env", "env_version", "algorithm"]
    assert not table.duplicated([*curve, "env_step"]).any()
    assert (table.groupby(curve)[["source", "seeds"]].nunique(dropna=False) == 1).all(axis=None)


def test_the_band_of_2019_is_marked_as_no_runs():
    table = published_curves.read()
    band = table["algorithm"] == BAND
    assert (table["seeds"].isna() == band).all()
    assert (table.loc[band, "env_version"] == "v2").all()
    assert table.loc[band, "note"].str.contains("not for intervals or tests").all()
    # Lowest and second of the file's five equally spaced copies, Hopper at step 125,019.
    lowest, second = 2636.3328, 2958.0565
    spacing = second - lowest
    row = table[band & (table["env"] == "Hopper") & (table["env_step"] == 125_000)].iloc[0]
    assert row["mean"] == round(lowest + 2 * spacing)
    assert row["std"] == round(2 * spacing)


@pytest.mark.parametrize(
    ("env", "algo", "expected"),
    [
        ("Hopper-v4", "dhmbpo", [*DHMBPO, BAND, SAC]),
        ("HalfCheetah-v4", "sac", [SAC]),
        ("Walker2d-v4", "mbpo", [BAND]),
        ("Walker2d-v4", "pets", []),
        ("Hopper-v5", "dhmbpo", [BAND]),  # another version, except the band, whose label says so
        ("Hopper-v5", "sac", []),
        ("Hopper-v4+noise8", "dhmbpo", []),
        ("AntTruncated-v2", "mbpo", [BAND]),
        ("Ant-v4", "dhmbpo", []),  # published with fewer observations
    ],
)
def test_curves_are_of_the_algorithm_the_task_and_its_version(env, algo, expected):
    assert names(env, algo) == expected


def test_curves_of_several_algorithms_are_drawn_once_and_have_the_runs_environment():
    assert names("Hopper-v4", "mbpo", "sac") == [BAND, SAC]
    rows = published_curves.relevant("gym:Hopper-v4", {"dhmbpo", "sac"}, 400_000)
    assert not rows.duplicated(["algorithm", "env_step"]).any()
    assert (rows["env"] == "gym:Hopper-v4").all()


def test_curves_end_a_quarter_beyond_the_runs():
    rows = published_curves.relevant("Hopper-v4", ["sac"], 8000)
    assert rows["env_step"].tolist() == [5000, 10_000]
    assert published_curves.relevant("Hopper-v4", ["sac"], 0).empty


def two_curves():
    rows = [
        ("A-v4", "v4", SAC, "S", "", 8.0, 100.0, 5.0, 1.0),
        ("A-v4", "v4", SAC, "S", "", 8.0, 200.0, 7.0, 2.0),
        ("A-v4", "v2", BAND, "T", "no runs", np.nan, 100.0, 3.0, 0.5),
    ]
    return pd.DataFrame(rows, columns=published_curves.COLUMNS)


def test_curves_are_thin_and_behind_with_one_standard_deviation_on_either_side():
    axes = Figure().add_subplot()
    ours = axes.plot([0, 200], [1, 1], linewidth=2)[0]
    published_curves.draw(axes, two_curves())
    band, curve = axes.lines[1:]
    assert curve.get_xydata().tolist() == [[100, 5], [200, 7]]
    assert curve.get_label() == "published, -v4: SAC (erl_lib 3x256), 8 seeds"
    assert band.get_label() == "published, -v2: MBPO (2019), a band"
    assert band.get_marker() == "."  # as a line through one point is invisible
    assert all(line.get_linewidth() < ours.get_linewidth() for line in (band, curve))
    assert all(artist.get_zorder() < ours.get_zorder() for artist in axes.lines[1:])
    assert all(artist.get_zorder() < ours.get_zorder() for artist in axes.collections)
    ends = [shape.get_paths()[0].vertices[:, 1] for shape in axes.collections]
    assert [(end.min(), end.max()) for end in ends] == [(2.5, 3.5), (4.0, 9.0)]


def test_every_curve_that_can_be_shown_is_published_and_has_its_own_muted_style():
    shown = {name for names in published_curves.SHOWN.values() for name in names}
    assert shown == set(published_curves.STYLES)
    assert shown <= set(published_curves.read()["algorithm"])
    assert len(set(published_curves.STYLES.values())) == len(shown)
    for color, _ in published_curves.STYLES.values():
        assert np.ptp(to_rgba(color)[:3]) < 0.3  # that of the colours of groups is 0.5 to 0.9


def test_sources_are_listed_once_per_curve_with_their_notes():
    text = published_curves.section(two_curves())
    assert text.startswith("## Published curves\n")
    assert text.splitlines()[-3:] == [
        "",
        "- A-v4, published, -v4: SAC (erl_lib 3x256), 8 seeds: S",
        "- A-v4, published, -v2: MBPO (2019), a band: T; no runs",
    ]
    assert published_curves.section(two_curves()[:0]) == ""


def test_without_the_file_nothing_is_published(tmp_path):
    assert published_curves.read(tmp_path / "none.csv").empty
