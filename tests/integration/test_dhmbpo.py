"""Double-horizon MBPO from the command line to the tools that look at its runs."""

import subprocess
import sys

import numpy as np
import pytest

from experiment import metrics
from tests.integration import tiny

SIZES = {name.replace("__", "."): value for name, value in tiny.DOUBLE_HORIZON.items()}
CHANGES = SIZES | {"num_seeds": 2, "total_steps": 264, "dhmbpo.early_share": 0.2}
REFRESHES = [65, 115, 165, 215]  # every 50 steps after the first 64


def tool(name, *given):
    command = [sys.executable, str(tiny.REPOSITORY / name), *map(str, given)]
    options = tiny.process_options()
    result = subprocess.run(command, capture_output=True, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_run_records_what_it_does_and_its_tools_work_on_it(tmp_path):
    run = tmp_path / "run"
    config = f"--config={tiny.REPOSITORY / 'configs' / 'dhmbpo.py'}:InvertedPendulum-v4"
    result = tiny.train(config, *tiny.flags(**CHANGES), f"--workdir={run}")
    assert result.returncode == 0, result.stderr
    epochs, refreshes = metrics.read(run)[1], metrics.read_refreshes(run)[1]
    assert epochs["env_step"].tolist() == [64, 164, 264]
    assert refreshes["env_step"].tolist() == REFRESHES
    learned = epochs[1:]
    assert (learned["critic/low"] <= 0.0).all()
    assert (learned["critic/high"] >= 0.0).all()
    assert learned["rollout/alive"].between(0.0, 1.0).all()
    assert (refreshes["rollout/length"] == 3).all()
    for stage in ("model", "updates"):
        assert (learned[f"time/{stage}"] > 0).all(), stage
    assert np.isfinite(learned[["critic/loss", "policy/loss", "policy/entropy"]]).all(axis=None)

    assert "return of" in tool("evaluate.py", "--workdir", run, "--episodes", 2)
    looked_at = tool("diagnose.py", "--workdir", run, "--episodes", 2, "--horizon", 3)
    assert "Written to" in looked_at
