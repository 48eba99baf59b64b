"""The homework's script, with a Python in its place that only says how it was called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import tiny


@pytest.fixture
def run(tmp_path):
    """Returns a function that runs the script with variables and returns status and output."""
    shutil.copy(tiny.REPOSITORY / "run_hw4.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "python $*"\n')
    python.chmod(0o755)

    def call(**variables):
        done = subprocess.run(
            [tmp_path / "run_hw4.sh"],
            env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SKIP_INSTALL": "1"}
            | variables,
            capture_output=True,
            text=True,
        )
        commands = [line for line in done.stdout.splitlines() if line.startswith("python")]
        return done.returncode, commands, done.stderr

    return call


def test_both_experiments_are_run_with_the_homeworks_defaults(run):
    status, commands, _ = run()
    assert status == 0
    assert commands == [
        "python train.py --config=configs/cs285_mpc.py:obstacles-cs285-v0 --workdir=runs/hw4/mb",
        "python train.py --config=configs/cs285_mbpo.py:10,cheetah-cs285-v0 "
        "--workdir=runs/hw4/mbpo",
    ]


def test_variables_become_flags(run):
    _, (mb,), _ = run(
        RUN_MBPO="0",
        MB_ENV_NAME="reacher-cs285-v0",
        MB_MPC_SAMPLING="cem",
        MB_CEM_ITERATIONS="6",
        MB_CEM_NUM_ELITES="10",
        MB_ADD_SL_NOISE="1",
        MB_EXTRA_FLAGS="--config.seed=3 --config.eval_episodes=2",
        RUNS_DIR="elsewhere",
    )
    for flag in (
        ":reacher-cs285-v0",
        "planner.name=cem",
        "planner.num_iterations=6",
        "planner.num_elites=10",
        "model.sl_noise=0.01",
        "--config.seed=3 --config.eval_episodes=2",
        "--workdir=elsewhere/mb",
    ):
        assert flag in mb
    _, (mbpo,), _ = run(
        RUN_MB="0",
        MBPO_ENV_NAME="obstacles-cs285-v0",
        MBPO_ROLLOUT_LENGTH="5",
        MBPO_ADD_SL_NOISE="1",
        SAC_INIT_TEMPERATURE="0.5",
        MBPO_EXTRA_FLAGS="--config.seed=4",
    )
    for flag in (
        ":5,obstacles-cs285-v0",
        "model.sl_noise=0.01",
        "sac.initial_temperature=0.5",
        "--config.seed=4",
    ):
        assert flag in mbpo


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MB_MPC_SAMPLING": "best"}, "MB_MPC_SAMPLING=best: use random or cem."),
        ({"MB_CEM_ITERATIONS": "6"}, "MB_CEM_ITERATIONS and MB_CEM_NUM_ELITES need"),
        ({"RUN_MB": "yes"}, "RUN_MB=yes: use 0 or 1."),
        ({"RUN_MBPO": ""}, None),  # as if it were not set
        ({"SAC_TEMPERATURE": "1"}, "SAC_TEMPERATURE is unknown. Use one of: SAC_BATCH_SIZE"),
        ({"MBPO_ROLLOUT_LENGTH": "0", "MBPO_ADD_SL_NOISE": "1"}, "needs a model"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(run, variables, message):
    status, commands, errors = run(**variables)
    if message is None:
        assert status == 0
        return
    assert status == 2
    assert message in errors
    assert not commands


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
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SKIP_INSTALL": "1",
            "RUNS_DIR": str(tmp_path),
            "MBPO_ENV_NAME": "obstacles-cs285-v0",
            "MBPO_ROLLOUT_LENGTH": "2",
            "MB_EXTRA_FLAGS": mb,
            "MBPO_EXTRA_FLAGS": mbpo,
        },
        check=True,
    )
    for name in ("mb", "mbpo"):
        for file in ("curve.png", "report.md", "metrics/seed_0.csv"):
            assert (tmp_path / name / file).exists()
