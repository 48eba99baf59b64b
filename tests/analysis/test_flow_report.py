"""The report's section on flows, with numbers that can be worked out by hand."""

import time

import numpy as np
import pytest
from matplotlib.image import imread

from analysis import flow_report, run_report
from experiment import metrics
from experiment.metrics import MetricsWriter
from experiment.run_folder import close_run, open_run


def make_run(workdir, tables, epochs=1, **extra):
    """Writes a run with the given refreshes by seed, and epochs of 100 seconds."""
    config = {"algo": "mbpo", "env": "Hopper-v5", "seed": 0, "num_seeds": len(tables)}
    open_run(workdir, config, {"versions": {}, "git": None, "hardware": {}})
    close_run(workdir)
    writer = MetricsWriter(
        workdir,
        list(range(len(tables))),
        tensorboard=False,
        wandb="off",
        wandb_project="",
        config={},
    )
    writer.write_refreshes(tables)
    for epoch in range(epochs):
        row = {"wall_clock": 100.0 * (epoch + 1), "eval/return": 1.0, **extra}
        writer.write(1000 * epoch, [row] * len(tables))


def refreshes(**columns):
    """Returns rows 250 steps apart; `flow__auc` is the column `flow/auc`."""
    names = [name.replace("__", "/") for name in columns]
    return [
        {"env_step": 1001 + 250 * index, **dict(zip(names, values, strict=True))}
        for index, values in enumerate(zip(*columns.values(), strict=True))
    ]


def report_of(workdir):
    run_report.write_report(workdir, "x")
    return (workdir / "report.md").read_text()


def panels(workdir):
    """Returns the titles of the panels of a run, and the axes by title."""
    tables = flow_report._read(workdir)
    names = sorted(set().union(*tables.values()))
    figure = flow_report._figure(flow_report._panels(names), tables)
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_numbers_are_those_computed_by_hand(tmp_path):
    # Eight refreshes: a quarter is two of them, of both seeds.
    first = refreshes(
        flow__dv_heldout=[4.0, 3.0, 9.0, 9.0, 9.0, 9.0, 2.0, 1.0],
        flow__return_gap=[1.0, -3.0, 0.0, 0.0, 0.0, 0.0, -2.0, 2.0],
        flow__return_gap_bound=[2.0] * 8,  # exceeded once: by |-3|
        refine__accepted=[1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0],
        model__holdout_mse=[1.0] * 8,
        rollout__kept_fraction=[0.25, 0.75] * 4,
    )
    second = refreshes(
        flow__dv_heldout=[6.0, 7.0, 9.0, 9.0, 9.0, 9.0, 2.0, 5.0],
        flow__return_gap=[5.0, 1.0, 0.0, 0.0, 0.0, 0.0, 6.0, 0.0],
        flow__return_gap_bound=[2.0] * 8,  # twice: by 5 and by 6
        refine__accepted=[0.0] * 7 + [1.0],
        model__holdout_mse=[1.0] * 8,
        rollout__kept_fraction=[0.5] * 8,
    )
    make_run(tmp_path, [first, second], epochs=3, **{"time/flows": 20.0, "time/model": 30.0})
    text = report_of(tmp_path)
    section = text[text.index("## Flow diagnostics") : text.index("## Time")]
    assert "](diagnostics.png)" in section
    assert "Thin lines are seeds" in section
    assert "accepted the refined model in 6 of 16 refreshes (37.5%)" in section
    assert "return gap exceeded its bound in 3 of 16 refreshes (18.8%)" in section
    assert "Flows and refinement took 20% of the wall-clock time" in section  # 60 of 300 seconds
    rows = section[section.index("| metric") :].splitlines()
    assert rows[2:] == [
        "| flow/dv_heldout | 5 | 2.5 |",
        "| flow/return_gap | 1 | 1.5 |",
        "| flow/return_gap (absolute) | 2.5 | 2.5 |",
        "| flow/return_gap_bound | 2 | 2 |",
        "| refine/accepted | 0.5 | 0.25 |",
        "| rollout/kept_fraction | 0.5 | 0.5 |",
        "",
    ]
    assert "| flows and refinement | 60.0 | 20% |" in text


def test_without_flows_there_is_no_section(tmp_path):
    tables = [refreshes(model__holdout_mse=[1.0, 2.0], rollout__kept_fraction=[1.0, 1.0])] * 2
    make_run(tmp_path, tables)
    assert "Flow diagnostics" not in report_of(tmp_path)
    assert not (tmp_path / "diagnostics.png").exists()


def test_an_algorithm_without_a_model_has_no_section(tmp_path):
    make_run(tmp_path, [[], []])
    assert metrics.read_refreshes(tmp_path) == {}
    assert "Flow diagnostics" not in report_of(tmp_path)


def test_only_panels_of_recorded_metrics_are_drawn(tmp_path):
    one = refreshes(
        flow__auc=[0.5, 0.75], flow__return_gap=[0.0, 0.0], rollout__kept_fraction=[1, 1]
    )
    make_run(tmp_path, [one])
    text = report_of(tmp_path)  # a gap of zero has no logarithm
    assert "accepted" not in text
    assert "bound" not in text
    assert "Thin lines" not in text
    assert "of the wall-clock time" not in text
    drawn = panels(tmp_path)
    assert list(drawn) == ["Kept fraction", "Return gap and its bound", "AUC, model against real"]
    auc, reference = drawn["AUC, model against real"].lines
    np.testing.assert_array_equal(auc.get_xydata(), [[1001, 0.5], [1251, 0.75]])
    assert set(reference.get_ydata()) == {0.5}


def test_seeds_are_thin_lines_and_their_mean_a_thick_one(tmp_path):
    make_run(tmp_path, [refreshes(flow__ess=[1.0, 5.0]), refreshes(flow__ess=[3.0, 6.0])])
    lines = panels(tmp_path)["Effective sample size"].lines
    heights = [line.get_ydata().tolist() for line in lines]
    assert heights == [[1.0, 5.0], [3.0, 6.0], [2.0, 5.5]]
    assert [line.get_linewidth() > 1 for line in lines] == [False, False, True]


def test_open_loop_errors_are_of_one_step_and_of_the_most(tmp_path):
    steps = {f"{part}__{when}_{k}": [0.1 * k] * 2 for k in range(1, 6) for part, when in
             (("refine", "before"), ("refine", "after"), ("model", "open_loop"))}  # fmt: skip
    make_run(tmp_path / "refined", [refreshes(**steps)])
    lines = panels(tmp_path / "refined")["Open-loop error, k steps"].lines
    expected = {
        "k = 1, before": ("--", 0.1),
        "k = 5, before": ("--", 0.5),
        "k = 1, after": ("-", 0.1),
        "k = 5, after": ("-", 0.5),
    }
    assert {x.get_label(): (x.get_linestyle(), x.get_ydata()[0]) for x in lines} == expected

    plain = {name: values for name, values in steps.items() if name.startswith("model")}
    make_run(tmp_path / "plain", [refreshes(**plain)])
    lines = panels(tmp_path / "plain")["Open-loop error, k steps"].lines
    assert {x.get_label(): x.get_ydata()[0] for x in lines} == {"k = 1": 0.1, "k = 5": 0.5}


def test_acceptance_is_a_tick_per_refresh_and_a_running_share(tmp_path):
    # 40 refreshes: the share is that of the last two, over both seeds
    first, second = [1.0, 0.0] * 20, [1.0] * 40
    ticks = [refreshes(flow__auc=x, refine__accepted=x) for x in (first, second)]
    make_run(tmp_path, ticks)
    one, two, share = panels(tmp_path)["Refinement accepted (upper ticks) or not"].lines
    np.testing.assert_array_equal(one.get_ydata() > 0.5, np.array(first) > 0.5)
    assert (two.get_ydata() > 1).all()
    np.testing.assert_array_equal(share.get_ydata(), [1.0] + [0.75] * 39)


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_long_run_is_drawn_quickly(tmp_path, seeds):
    rng = np.random.default_rng(0)
    names = ("dv_heldout", "kl_plugin", "kept_fraction", "threshold", "ess", "auc", "return_gap")
    names = [f"flow__{name}" for name in (*names, "return_gap_bound")]
    names += ["model__open_loop_1", "model__open_loop_5"]
    tables = [
        refreshes(**{name: rng.uniform(0.1, 1, size=480) for name in names}) for _ in range(seeds)
    ]
    make_run(tmp_path, tables)
    start = time.perf_counter()
    assert flow_report.section(tmp_path, metrics.read(tmp_path))
    assert time.perf_counter() - start < 5.0  # takes about 1 s; leaves room for a loaded machine
    image = imread(tmp_path / "diagnostics.png")[..., :3]
    assert image.shape[0] > 800
    assert image.shape[1] > 1200
    redness = image[..., 0] - image[..., 2]
    for colored in (redness < -0.1, redness > 0.3):
        assert colored.mean() > 0.002  # blue and orange lines
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
