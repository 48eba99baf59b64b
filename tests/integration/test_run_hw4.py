"""The homework's script."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.integration import tiny


def test_it_makes_the_virtual_environment_that_it_then_uses(tmp_path):
    """With a Python in its place that only says how it was called."""
    shutil.copy(tiny.REPOSITORY / "run_hw4.sh", tmp_path)
    log, python = tmp_path / "calls", tmp_path / "fake-python"
    python.write_text(
        f'#!/bin/sh\ncase $0 in *.venv*) who=venv;; *) who=own;; esac\necho "$who $*" >> {log}\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
    )
    python.chmod(0o755)
    script = tmp_path / "run_hw4.sh"
    for variables in ({}, {}, {"SKIP_INSTALL": "1"}):
        subprocess.run([script], env=os.environ | {"PYTHON_BIN": str(python)} | variables)
    install = "venv -m pip install --quiet --disable-pip-version-check -r requirements.txt"
    run = "venv -m experiment.homework"
    expected = ["own -m venv .venv", install, run, install, run, run]
    assert log.read_text().splitlines() == expected


@pytest.mark.slow
def test_both_experiments_leave_plots(tmp_path):
    common = {"initial_steps": 64, "total_steps": 128, "epoch_length": 64, "eval_episodes": 1}
    model = {"model.train_every": 64, "model.hidden_width": 8, "model.batch_size": 16}
    planner = {"planner.num_candidates": 8, "planner.horizon": 3}
    mb, mbpo = (
        " ".join(f"--config.{name}={value}" for name, value in fields.items())
        for fields in (common | model | planner, common | model | {"sac.batch_size": 16})
    )
    subprocess.run(
        [tiny.REPOSITORY / "run_hw4.sh"],
        env=os.environ
        | {
            "PYTHON_BIN": sys.executable,
            "SKIP_INSTALL": "1",
            "RUNS_DIR": str(tmp_path),
            "MB_ENV_NAME": "obstacles-cs285-v0",
            "MBPO_ENV_NAME": "obstacles-cs285-v0",
            "MBPO_ROLLOUT_LENGTH": "2",
            "MB_EXTRA_FLAGS": mb,
            "MBPO_EXTRA_FLAGS": mbpo,
        },
        check=True,
    )
    for name in ("mb_default", "mbpo_default"):
        for file in ("curve.png", "report.md", "metrics/seed_0.csv"):
            assert (tmp_path / name / file).exists()
