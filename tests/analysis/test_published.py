import gymnasium
import numpy as np
import pandas as pd
import pytest

from analysis import published, published_curves
from envs.registry import registered_ids

COLUMNS = [
    "env_family",
    "env_version",
    "algo",
    "variant",
    "step",
    "mean",
    "spread",
    "spread_kind",
    "seeds",
    "source",
    "note",
]


def cell(**fields):
    table = published.read()
    for name, value in fields.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_every_row_is_of_an_environment_there_is():
    there = {published.family(env) for env in [*registered_ids(), *gymnasium.registry]}
    not_there = {"PETSPusher", "PETSReacher"}  # of MBRL-Lib
    assert set(published.read()["env_family"]) <= there | not_there


def test_every_row_has_what_makes_it_usable():
    table = published.read()
    assert list(table.columns) == COLUMNS
    for column in ("env_family", "algo", "source"):
        assert (table[column] != "").all()
    assert np.isfinite(table["mean"]).all()
    assert table["env_version"].str.fullmatch(r"|v\d+").all()
    # A spread says what it is, and what is read as a family can be matched with an environment.
    assert ((table["spread_kind"] != "") == table["spread"].notna()).all()
    assert (table["env_family"].map(published.family) == table["env_family"]).all()
    assert not table.duplicated(["env_family", "algo", "variant", "step", "source"]).any()


def test_hand_picked_values():
    hopper = cell(env_family="Hopper", step=125_000, algo="mbpo")
    # Mean and half-width of the file's five equally spaced copies, 2636.33, 2958.06 and so on.
    assert (hopper["mean"], hopper.spread) == (round(2 * 2958.06 - 2636.33), round(2 * 321.73))
    assert (hopper.spread_kind, hopper.env_version) == (published.HALF_WIDTH, "v2")
    assert "arXiv:1906.08253" in hopper.source
    cheetah = cell(env_family="HalfCheetah", env_version="v3", step=100_000)
    # Three seeds read off a plot: 10.4k, 10.4k and 9.4k.
    assert cheetah["mean"] == round(30_200 / 3)
    assert cheetah.spread == round(np.std([10_400, 10_400, 9_400], ddof=1))
    omd = cell(env_family="HalfCheetah", algo="omd", variant="model width 16")
    assert (omd["mean"], omd.spread, omd.env_version) == (1835, 369, "v2")
    assert np.isnan(omd.step)
    mle = cell(env_family="CartPole", algo="mle", variant="distractors 128")
    assert (mle["mean"], mle.spread, mle.step) == (51, 14, 200_000)
    cem = cell(env_family="cheetah-cs285", variant="CEM, 4 iterations", seeds=3)
    assert (cem["mean"], cem.step) == (round((777 + 824 + 731) / 3, 1), 25_000)


def test_the_band_of_2019_has_no_seeds_and_agrees_with_its_curve():
    table = published.read()
    of_band = table["source"].str.contains("erl_lib")
    assert of_band.sum() == 21
    assert (of_band == (table["spread_kind"] == published.HALF_WIDTH)).all()
    rows = table[of_band]
    assert rows["seeds"].isna().all()
    assert rows["note"].str.contains("not for intervals or tests").all()
    curves = published_curves.read()
    curves = curves[curves["algorithm"] == published_curves.BAND]
    both = rows.merge(curves, left_on=["env_family", "step"], right_on=["env", "env_step"])
    assert len(both) == 21
    assert (both["mean_x"] == both["mean_y"]).all()
    assert (both["spread"] == both["std"]).all()


def test_values_from_memory_say_so():
    table = published.read()
    assert table["note"].str.startswith("recalled").sum() == 6
    assert "recalled" in cell(env_family="InvertedPendulum").note


@pytest.mark.parametrize(
    ("env", "family", "version"),
    [
        ("Hopper-v5", "Hopper", "v5"),
        ("AntTruncated-v5", "AntTruncated", "v5"),
        ("AntTruncatedObs-v2", "AntTruncated", "v2"),
        ("my_envs:space/Hopper-v12", "Hopper", "v12"),
        ("cheetah-cs285-v0", "cheetah-cs285", "v0"),
        ("Thing", "Thing", ""),
    ],
)
def test_environments_are_matched_by_family(env, family, version):
    assert published.family(env) == family
    assert published.version(env) == version


def test_all_observations_of_ant_are_not_compared_with_27():
    assert published.relevant("Ant-v5", {"mbpo"}).empty
    assert len(published.relevant("AntTruncated-v5", {"mbpo"})) == 4


@pytest.mark.parametrize("env", ["HalfCheetah-v5+noise8", "CartPole-v1+linear16"])
def test_nothing_is_compared_with_runs_among_distracting_dimensions(env):
    # Not even the published rows with distractors: those are of another kind.
    rows = published.relevant(env, {"mbpo", "omd", "mle"})
    assert rows.empty
    assert published.warnings(rows) == []


def test_variants_are_shown_to_those_who_run_the_algorithm():
    without = published.relevant("HalfCheetah-v5", {"mbpo"})
    assert set(without["algo"]) == {"mbpo"}
    assert (without["env"] == "HalfCheetah-v5").all()
    shown = published.relevant("HalfCheetah-v5", {"omd"})
    assert set(shown["algo"]) == {"mbpo", "omd"}
    assert (shown["algo"] == "omd").sum() == 7 + 6


def test_other_and_unknown_versions_are_warned_about_and_equal_ones_are_not():
    rows = pd.DataFrame(
        [
            ("HalfCheetah-v5", "v3", "A"),
            ("HalfCheetah-v5", "v3", "B"),
            ("HalfCheetah-v5", "v5", "C"),
            ("HalfCheetah-v5", "", "D"),
        ],
        columns=["env", "env_version", "source"],
    )
    assert published.warnings(rows) == [
        "Version of HalfCheetah not stated by its source (D), these runs are HalfCheetah-v5: "
        "compare orders of magnitude only.",
        "Published on HalfCheetah-v3 (A; B), these runs are HalfCheetah-v5: "
        "compare orders of magnitude only.",
    ]
    assert published.warnings(rows[rows["source"] == "C"]) == []


def test_without_the_file_nothing_is_published(tmp_path):
    assert published.read(tmp_path / "none.csv").empty
