from pathlib import Path

import pytest

from agents.recipes import RECIPES
from analysis import leaderboard
from errors import UserError

ROOT = Path(__file__).parents[2]
# What `configuration.resolve` fills in for the runs below.
HOPPER = {
    "initial_steps": 5_000,
    "epoch_length": 1_000,
    "updates_per_step": 20,
    "replay_capacity": 125_000,
    "sac.hidden_width": 256,
    "model.hidden_width": 200,
}


def page(tmp_path):
    file = tmp_path / "results" / "README.md"
    leaderboard.write([tmp_path / "results"], file)
    return file.read_text()


def matrix(text):
    """Returns the first table as a dictionary, row name -> column name -> cell."""
    block = text[text.index("\n|") :].strip().partition("\n\n")[0]
    (_, *names), _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()
    ]
    return {first: dict(zip(names, cells)) for first, *cells in rows}


def test_empty_cells_are_visible_for_every_algorithm_and_standard_environment(make_run, tmp_path):
    make_run("results/a", {0: [1.0]}, env="Pendulum-v1")
    found = matrix(page(tmp_path))
    assert set(found) == set(RECIPES)
    for row in found.values():
        assert list(row) == [*leaderboard.ENVIRONMENTS, "Pendulum-v1"]
    assert found["mbpo"]["Pendulum-v1"] != "–"
    filled = [cell for row in found.values() for cell in row.values() if cell != "–"]
    assert len(filled) == 1


def test_cells_have_interval_or_range_seeds_steps_and_a_link(make_run, tmp_path):
    # By hand: mean 2, standard deviation 1, n = 3, t(0.975, 2) = 4.3027: half-width 2.484.
    make_run("results/a", {0: [1.0], 1: [2.0], 2: [3.0]}, **HOPPER)
    folder = make_run("results/b", {0: [5.0], 1: [7.5]}, env="Walker2d-v5", **HOPPER)
    (folder / "report.md").write_text("# a report")
    make_run("results/c", {0: [5.0]}, env="HalfCheetah-v5", **HOPPER | {"updates_per_step": 40})
    found = matrix(page(tmp_path))["mbpo"]
    assert found["Hopper-v5"] == "[2 ± 2.48 (3 seeds, 1,000 steps)](a)"
    assert found["Walker2d-v5"] == "[5 to 7.5 (2 seeds, 1,000 steps)](b/report.md)"
    assert found["HalfCheetah-v5"] == "[5 (1 seed, 1,000 steps)](c)"


def test_the_run_closest_to_the_preset_wins_and_others_get_a_footnote(make_run, tmp_path):
    make_run("results/a_changed", {0: [900.0]}, **HOPPER | {"model.hidden_width": 64})
    make_run("results/b_preset", {0: [100.0]}, **HOPPER)
    make_run("results/c_changed", {0: [1.0]}, env="Walker2d-v5", **HOPPER | {"updates_per_step": 1})
    text = page(tmp_path)
    found = matrix(text)["mbpo"]
    assert found["Hopper-v5"] == "[100 (1 seed, 1,000 steps)](b_preset)"
    assert found["Walker2d-v5"] == "[1 (1 seed, 1,000 steps)](c_changed) <sup>1</sup>"
    assert "\n1. c_changed changes 1 setting of the preset, listed below.\n" in text
    changed = {line.split("]")[0]: line.split(" | ")[-1] for line in text.splitlines()}
    assert changed["| [a_changed"] == "`model.hidden_width=64` |"
    assert changed["| [b_preset"] == "nothing |"
    assert changed["| [c_changed"] == "`updates_per_step=1` |"


def test_variants_have_rows_of_their_own_and_do_not_count_as_changes(make_run, tmp_path):
    fields = {"algo": "cf_mbpo", "use_algo": "reward", "rollout.filter": "flow_reward"}
    fields |= {"model.normalize_targets": True, "flow.rl_weight": 30.0}
    make_run("results/a", {0: [1.0]}, **HOPPER | fields)
    text = page(tmp_path)
    rows = list(matrix(text))
    assert rows == [*RECIPES, "cf_mbpo, use_algo=reward"]  # cf_mbpo is the last recipe
    assert matrix(text)["cf_mbpo, use_algo=reward"]["Hopper-v5"].endswith("(a)")
    assert "| nothing |" in text


def test_runs_have_time_and_hardware(make_run, tmp_path):
    make_run("results/a", {0: [1.0, 9.0]}, minutes=2.0, **HOPPER)
    line = next(line for line in page(tmp_path).splitlines() if line.startswith("| [a](a) |"))
    assert (
        "| mbpo on Hopper-v5 | 5 (1 seed, 2,000 steps) | 9 | 0:04:00 | A CPU, 2 cores, cpu: cpu |"
        in line
    )


def test_folders_that_are_no_runs_are_linked_by_the_title_of_their_readme(make_run, tmp_path):
    make_run("results/study/run", {0: [1.0]})
    (tmp_path / "results" / "study" / "README.md").write_text("# What it is\n\nText.\n")
    (tmp_path / "results" / "tables").mkdir()
    text = page(tmp_path)
    assert "- [study](study/README.md): What it is\n- [tables](tables)\n" in text
    assert "| [study/run](study/run) |" in text


def test_a_study_with_an_empty_readme_is_linked_without_a_title(make_run, tmp_path):
    make_run("results/study/run", {0: [1.0]})
    (tmp_path / "results" / "study" / "README.md").write_text("")
    assert "- [study](study/README.md)\n" in page(tmp_path)


def test_the_page_is_written_anywhere_with_links_and_a_command_that_work(make_run, tmp_path):
    folder = make_run("my runs/a", {0: [1.0]}).parent
    file = tmp_path / "new" / "folder" / "R.md"
    leaderboard.write([folder], file)
    text = file.read_text()
    assert f"`python report.py '{folder}' --leaderboard {file}`" in text
    for name in ("published.csv", "published_curves.csv"):
        link = text.split(f"[{name}](")[1].split(")")[0]
        assert (file.parent / link).resolve() == ROOT / "results" / name


def test_a_page_that_cannot_be_written_is_a_user_error(make_run, tmp_path):
    folder = make_run("a", {0: [1.0]})
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "R.md", Path("/proc/no/R.md")):
        with pytest.raises(UserError, match="The leaderboard could not be written to"):
            leaderboard.write([folder], place)


def test_problems_are_notes(make_run, tmp_path):
    make_run("results/a", {0: [1.0]})
    broken = make_run("results/b", {0: [1.0]})
    (broken / "config.json").write_text("{")
    assert f"## Notes\n\n- {broken}: config.json is damaged" in page(tmp_path)


def test_without_runs_the_old_page_stays(tmp_path):
    (tmp_path / "README.md").write_text("old")
    with pytest.raises(UserError, match="no run to report on"):
        leaderboard.write([tmp_path / "typo"], tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "old"


def test_the_page_in_the_repository_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    file = Path("results/README.md")
    expected = leaderboard.page([Path("results")], file)
    assert file.read_text() == expected, (
        "run `python report.py results --leaderboard results/README.md`"
    )


def test_seeds_that_were_trained_apart_are_one_experiment(make_run, tmp_path):
    for seed, final in enumerate((1.0, 2.0, 3.0)):
        make_run(f"results/sweep/a/seed_{seed}", {seed: [final]}, minutes=1.0, **HOPPER)
    make_run("results/alone", {0: [9.0], 1: [9.0]}, **HOPPER | {"updates_per_step": 1})
    text = page(tmp_path)
    # t(0.975, 2) = 4.3027, standard deviation 1: 4.3027 / sqrt(3) = 2.484
    assert matrix(text)["mbpo"]["Hopper-v5"] == "[2 ± 2.48 (3 seeds, 1,000 steps)](sweep/a)"
    lines = [line for line in text.splitlines() if line.startswith("| [sweep")]
    assert len(lines) == 1
    assert "| 0:03:00 |" in lines[0]
