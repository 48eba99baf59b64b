"""CFG-MBPO from the command line to the report."""

import numpy as np
import pytest

from experiment import metrics
from tests.integration import tiny

CONFIG = tiny.REPOSITORY / "configs" / "cf_mbpo.py"
SIZES = {"num_seeds": 1, "total_steps": 264}
REFRESHES = [65, 115, 165, 215]  # every 50 steps after the first 64


def train(workdir, use_algo):
    """Returns by epoch and by refresh what a run of one seed recorded, and its report."""
    choice = f"--config.use_algo={use_algo}"
    result = tiny.train(f"--config={CONFIG}", choice, *tiny.flags(**SIZES), f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    tables = metrics.read(workdir)[0], metrics.read_refreshes(workdir)[0]
    assert tables[1]["env_step"].tolist() == REFRESHES
    return *tables, (workdir / "report.md").read_text()


@pytest.mark.slow
def test_a_run_with_flows_reports_their_diagnostics(tmp_path):
    epochs, refreshes, report = train(tmp_path, "both")
    assert "## Flow diagnostics" in report
    assert "![Flow diagnostics against environment steps](diagnostics.png)" in report
    assert "| flow/dv_heldout |" in report
    assert "flows and refinement" in report
    assert (tmp_path / "diagnostics.png").stat().st_size > 10_000
    assert epochs["env_step"].tolist() == [64, 164, 264]
    assert (epochs["time/flows"][1:] > 0).all()
    flow_columns = [name for name in refreshes if name.startswith(("flow/", "refine/"))]
    assert {"flow/auc", "flow/return_gap", "refine/accepted", "refine/after_3"} <= {*flow_columns}
    assert np.isfinite(refreshes[flow_columns]).all(axis=None)
    assert (refreshes["refine/steps"] == 2).all()
    assert refreshes["flow/auc"].between(0, 1).all()


@pytest.mark.long
def test_the_control_without_flows_reports_none(tmp_path):
    epochs, refreshes, report = train(tmp_path, "mbpo")
    assert "Flow diagnostics" not in report
    assert not (tmp_path / "diagnostics.png").exists()
    assert "time/flows" not in epochs
    assert not [name for name in refreshes if name.startswith(("flow/", "refine/"))]
    assert (refreshes["rollout/kept_fraction"] > 0).all()
