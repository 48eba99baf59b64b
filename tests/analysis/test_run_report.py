import re
import time

import numpy as np
import pytest
from matplotlib.image import imread

from analysis import run_report
from errors import UserError
from experiment.metrics import MetricsWriter
from experiment.run_folder import close_run, open_run

ENVIRONMENT = {
    "date": "2030-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.9", "jax": "0.10.2", "mujoco": None},
    "git": {"commit": "abc123", "dirty": True},
    "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 8.0, "devices": ["cpu: cpu"] * 2},
}


def make_run(workdir, returns, **extra):
    """Writes a run with `returns[seed]`, one evaluation every 1000 steps."""
    config = {"algo": "mbpo", "env": "Hopper-v5", "seed": min(returns, default=0)}
    config["num_seeds"] = len(returns)
    open_run(workdir, config, ENVIRONMENT)
    close_run(workdir)
    writer = MetricsWriter(
        workdir, list(returns), tensorboard=False, wandb="off", wandb_project="", config={}
    )
    for index, values in enumerate(zip(*returns.values(), strict=True)):
        clock = 60.0 * (index + 1)
        rows = [{"wall_clock": clock, "eval/return": value, **extra} for value in values]
        writer.write(1000 * (index + 1), rows)


def test_report_states_final_returns_of_the_last_five_evaluations(tmp_path):
    # Last five of each seed: means 30, 40 and 50, so 40 ± 4.3027 * 10 / sqrt(3) = 40 ± 24.84.
    returns = {
        5: [999.0, 10, 20, 30, 40, 50],
        6: [1, 20, 30, 40, 50, 60.0],
        7: [200.0, 30, 40, 50, 60, 70],
    }
    make_run(tmp_path, returns, **{"time/model": 9.0, "time/rollouts": 1.0, "time/policy": 40.0})
    run_report.write_report(tmp_path, "python train.py --config.seed=5")
    text = (tmp_path / "report.md").read_text()
    finding = text.split("\n\n")[1]
    assert finding.startswith("After 6,000 environment steps per seed, mbpo on Hopper-v5 reaches")
    assert "**40.0 ± 24.8**, from 400.0 at the first evaluation" in finding
    assert "mean of 3 seeds with its 95 % Student-t interval" in finding
    assert "| 5 | 30.0 | 999.0 | 1,000 |" in text
    assert "| 6 | 40.0 | 60.0 | 6,000 |" in text
    assert "best single evaluation was 999.0, by seed 5 at step 1,000" in text
    assert "The run took 0:06:00" in text
    assert "| model fits | 54.0 | 15% |\n| model rollouts | 6.0 | 2% |" in text
    assert "flows" not in text
    assert "| policy updates | 240.0 | 67% |" in text
    assert "| metrics files, curve and the rest | 60.0 | 17% |" in text
    assert "environment steps |" not in text
    assert "```\npython train.py --config.seed=5\n```" in text
    assert "- seeds: 5, 6, 7" in text
    assert "- hardware: A CPU, 2 cores, cpu: cpu, 8.0 GiB memory, 2 JAX devices" in text
    assert "- libraries: python 3.11.9, jax 0.10.2\n" in text
    assert "- code: commit abc123, with uncommitted changes" in text
    assert "](curve.png)" in text
    assert (tmp_path / "curve.png").exists()


def test_report_of_one_seed_claims_no_interval(tmp_path):
    make_run(tmp_path, {0: [1.0, 2.0]})
    run_report.write_report(tmp_path, "x")
    text = (tmp_path / "report.md").read_text()
    assert "**1.5**, from 1.0 at the first evaluation. This is seed 0 alone" in text
    assert "±" not in text
    assert "nan" not in text


def test_two_seeds_get_their_range_instead_of_an_interval(tmp_path):
    make_run(tmp_path, {0: [1.0, 2.0], 1: [3.0, 6.0]})
    run_report.write_report(tmp_path, "x")
    text = (tmp_path / "report.md").read_text()
    assert "**3.0** (mean of 2 seeds, which reach between 1.5 and 4.5" in text
    assert "±" not in text


def test_report_without_evaluations_says_so(tmp_path):
    make_run(tmp_path, {})
    run_report.write_report(tmp_path, "x")
    assert "No evaluation of mbpo on Hopper-v5 was recorded" in (tmp_path / "report.md").read_text()


def test_an_evaluation_that_not_every_seed_has_is_left_out(tmp_path):
    make_run(tmp_path, {0: [1.0, 3.0], 1: [2.0, 4.0]})
    path = tmp_path / "metrics" / "seed_1.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    run_report.write_report(tmp_path, "x")
    assert "**1.5** (mean of 2 seeds" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_curve_is_drawn_quickly_with_lines_and_band(tmp_path, seeds):
    rng = np.random.default_rng(0)
    make_run(tmp_path, {k: list(40 * (np.arange(30) + rng.normal(size=30))) for k in range(seeds)})
    run_report.draw_curve(tmp_path)
    start = time.perf_counter()
    run_report.draw_curve(tmp_path)
    assert time.perf_counter() - start < 2.0  # takes about 0.2 s; leaves room for a loaded machine
    image = imread(tmp_path / "curve.png")[..., :3]
    assert image.shape[0] > 400
    assert image.shape[1] > 600
    blue = (image[..., 2] > image[..., 0] + 0.1).mean()
    assert blue > (0.01 if seeds > 1 else 0.001)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_published_curves_of_the_same_algorithm_and_task_are_drawn_and_named(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(run_report, "save_figure", lambda figure, *_: figures.append(figure))
    make_run(tmp_path / "far", {0: [1.0] * 5})  # to step 5,000, of Hopper-v5
    run_report.write_report(tmp_path / "far", "x")
    assert (
        "- Hopper-v5, published, -v2: MBPO (2019), a band: github.com/4kubo/erl_lib"
        in (tmp_path / "far" / "report.md").read_text()
    )
    (legend,) = figures[0].legends
    band = "published, -v2: MBPO (2019), a band"
    assert [text.get_text() for text in legend.get_texts()] == [band, "seed 0"]
    make_run(tmp_path / "near", {0: [1.0] * 3})  # the first published step is 5,000
    run_report.write_report(tmp_path / "near", "x")
    assert "published" not in (tmp_path / "near" / "report.md").read_text()


def test_a_folder_that_is_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} is not a run folder")):
        run_report.draw_curve(tmp_path)
