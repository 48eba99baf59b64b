import importlib

import numpy as np
import pandas as pd
import pytest

from analysis import cs285_study, cs285_study_report
from analysis.cs285_study import CHECKS, PANELS, points, verdict
from benchmarks.cs285_model_fits import FITS
from envs.cs285 import REACHER_STEPS
from errors import UserError
from experiment import configuration
from experiment.metrics import MetricsWriter


def returns(**runs):
    """Returns `returns.csv` of one seed with these returns by iteration."""
    rows = [
        (run, 0, k, 1000 * k, value, 60.0 * k)
        for run, values in runs.items()
        for k, value in enumerate(values, start=1)
    ]
    return pd.DataFrame(
        rows, columns=["run", "seed", "iteration", "env_step", "return", "wall_clock"]
    )


def check(part):
    (found,) = [check for check in CHECKS if part in check.text]
    return found


@pytest.mark.parametrize("full", [False, True])
def test_every_run_is_a_valid_configuration_of_its_length(full):
    for point in points(full):
        module, argument = point.config.split(":")
        config = importlib.import_module(f"configs.{module[:-3]}").get_config(argument)
        config.update_from_flattened_dict(point.flags | {"total_steps": point.total_steps})
        config = configuration.resolve(config)
        configuration.validate(config)
        refreshes = {"sac": 0, "mpc": 1, "mbpo": 10}[config.agent]
        if refreshes:
            assert config.epoch_length == refreshes * config.model.train_every


def test_the_full_study_has_the_homeworks_sizes():
    sizes = {point.name: (point.flags, point.iterations) for point in points(full=True)}
    for name, steps, iterations in [
        ("q3_obstacles", 1_000, 12),
        ("q3_reacher", 5_000, 15),
        ("q3_cheetah", 5_000, 20),
        ("q4_horizon30", 800, 15),
        ("q5_cem4", 5_000, 5),
        ("q6_rollout10", 5_000, 10),
    ]:
        flags, count = sizes[name]
        assert (flags["epoch_length"], count) == (steps, iterations)
        assert flags["initial_steps"] == (20_000 if name.startswith("q4") else 5_000)


def test_panels_and_checks_are_about_runs_of_the_study():
    names = {point.name for point in points(full=True)}
    for panel in PANELS:
        assert set(panel.expected) <= set(panel.runs) <= names
    assert {run for check in CHECKS for run in check.runs} <= names
    assert {run for panel in PANELS for run in panel.runs} == names


def test_a_check_is_of_its_runs():
    reacher = check("within 3 iterations")
    assert verdict(returns(q3_reacher=[-400.0, -310.0, -299.0]), reacher)
    assert verdict(returns(q3_reacher=[-400.0, -310.0, -301.0, -200.0]), reacher) is False
    assert verdict(returns(q3_cheetah=[1.0]), reacher) is None
    order = check("CEM with 4 above")
    runs = {"q5_cem4": [0.0] * 4 + [9.0], "q5_cem2": [0.0] * 4 + [5.0]}
    assert verdict(returns(**runs, q3_cheetah=[9.0] * 4 + [3.0]), order)
    assert verdict(returns(**runs, q3_cheetah=[0.0] * 4 + [6.0]), order) is False
    assert verdict(returns(**runs, q3_cheetah=[0.0] * 4), order) is None  # unfinished


def test_iterations_are_counted_from_the_first_fit(tmp_path):
    point = next(point for point in points(full=False) if point.name == "q3_obstacles")
    writer = MetricsWriter(
        tmp_path, [0, 1], tensorboard=False, wandb="off", wandb_project="", config={}
    )
    for step, value in [(5_000, -160.0), (6_000, -40.0), (7_000, -30.0)]:
        row = {"eval/return": value, "wall_clock": step / 100}
        writer.write(step, [row, row | {"eval/return": value - 10}])
    table = cs285_study.collect([(point, tmp_path)])
    assert cs285_study.by_iteration(table, point.name).to_dict() == {1: -45.0, 2: -35.0}
    cs285_study.write(table, tmp_path)
    pd.testing.assert_frame_equal(cs285_study.read(tmp_path), table)


@pytest.mark.parametrize("full", [False, True])
def test_collected_episodes_are_whole(full):
    """Iterations of the ablations begin and end with an episode of the reacher."""
    for point in points(full):
        if point.collected_episodes:
            assert point.flags["epoch_length"] == point.collected_episodes * REACHER_STEPS
            assert point.flags["initial_steps"] % REACHER_STEPS == 0
            assert "reacher" in point.config
    assert all(p.collected_episodes == 4 for p in points(full) if p.name.startswith("q4"))


@pytest.mark.parametrize(
    ("full", "expected"),
    [(False, (-300.0 - 4 * 250.0) / 5), (True, (-2 * 300.0 - 4 * 250.0) / 6)],
)
def test_collected_episodes_of_the_ablations_count(tmp_path, full, expected):
    point = next(point for point in points(full) if point.name == "q4_base")
    writer = MetricsWriter(
        tmp_path, [0], tensorboard=False, wandb="off", wandb_project="", config={}
    )
    row = {"eval/return": -300.0, "train/return": -250.0, "wall_clock": 9.0}
    writer.write(point.flags["initial_steps"] + 800, [row])
    table = cs285_study.collect([(point, tmp_path)])
    assert cs285_study.by_iteration(table, point.name).to_dict() == {1: pytest.approx(expected)}
    assert table[["eval/return", "train/return"]].to_numpy().tolist() == [[-300.0, -250.0]]


def write_fits(folder):
    """Writes tables of question 1 as of fits that all went the same way."""
    folder.mkdir()
    rows = [(fit.name, *fit, 1.0, 0.1, 0.3, 200, 0.2, 0.2) for fit in FITS]
    columns = [*FITS[0]._fields, "first_loss", "last_loss", "mean_loss", "first_learned"]
    columns = ["fit", *columns, "mpe", "median_mpe"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "fits.csv", index=False)
    losses = [(fit.name, step, 1 / step) for fit in FITS for step in (1, 2, 3)]
    columns = ["fit", "step", "loss"]
    pd.DataFrame(losses, columns=columns).to_csv(folder / "losses.csv", index=False)
    paths = [(fit.name, k, d, 0.1 * k, 0.2 * k) for fit in FITS for k in range(3) for d in (0, 1)]
    columns = ["fit", "step", "dimension", "true", "predicted"]
    pd.DataFrame(paths, columns=columns).to_csv(folder / "predictions.csv", index=False)


def test_the_report_has_what_was_run(tmp_path):
    table = returns(q2_obstacles=[-31.0], q3_reacher=[-400.0, -290.0, -280.0])
    cs285_study.write(table, tmp_path)
    # 60 s, the last 20 of them beside 30 s of the other, and 50 s of the other after a pause
    times = ["part,start,end", "q2_obstacles,0,60", "q3_reacher,40,70", "q3_reacher,100,150"]
    (tmp_path / "programs.csv").write_text("\n".join(times))
    cs285_study_report.write_report(tmp_path, cs285_study.REDUCTIONS, "python benchmarks/x.py")
    text = (tmp_path / "report.md").read_text()
    assert "2 parts took 0:02:00" in text
    assert "- holds: Reacher: at least −300 within 3 iterations. Last returns: -280." in text
    assert "- not run: Cheetah, random shooting" in text
    assert "| random shooting | -400 | -280 | −300 to −250; solutions −271 to −261 |" in text
    assert "Question 5" not in text
    assert "Question 1" not in text
    assert not cs285_study_report.has_all_fits(tmp_path / "model_fits")
    write_fits(tmp_path / "model_fits")
    assert "800 environment steps per iteration instead of 5,000" in text
    assert cs285_study_report.has_all_fits(tmp_path / "model_fits")
    cs285_study_report.write_report(tmp_path, "The sizes are the homework's.", "again")
    text = (tmp_path / "report.md").read_text()
    assert "| cheetah, 1 x 32, 500 steps, noise | 0.1" in text
    assert "- **does not hold**: cheetah, 1 x 32, 500 steps, noise: last loss within 15%" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "returns.png",
        "losses.png",
        "predictions.png",
    }


def test_panels_without_runs_are_not_drawn():
    table = returns(q3_cheetah=[1.0, 2.0])
    panels = cs285_study_report.shown(table)
    assert [panel.question for panel in panels] == [3, 5]
    figure = cs285_study_report.curves(table, panels)
    drawn = [line.get_ydata().tolist() for axes in figure.axes for line in axes.lines]
    np.testing.assert_array_equal(drawn, [[1.0, 2.0]] * 2)


def test_a_missing_table_is_reported_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"returns\.csv cannot be used .*/cs285_study\.py"):
        cs285_study.read(tmp_path)
