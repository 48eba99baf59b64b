"""Run folders as `train.py` leaves them, but tiny."""

import json

import pytest

from analysis import statistics
from configs import default
from experiment.metrics import MetricsWriter

ENVIRONMENT = {
    "date": "2030-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.9", "jax": "0.10.2"},
    "git": {"commit": "abc1234567", "dirty": False},
    "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 8.0, "devices": ["cpu: cpu"] * 2},
}


@pytest.fixture
def make_run(tmp_path):
    """Returns a function that writes the run folder `name` with the evaluation returns of seeds."""

    def make(name, returns, *, env="Hopper-v5", every=1000, minutes=1.0, columns=None, **fields):
        folder = tmp_path / name
        config = default.get_config(env)
        steps = [every * (index + 1) for index in range(max(map(len, returns.values())))]
        fields = {"algo": "mbpo", "model.objective": "mle", "rollout.filter": "none", **fields}
        fields = {"total_steps": steps[-1] if steps else every, **fields}
        config.update_from_flattened_dict(
            {"seed": min(returns), "num_seeds": len(returns), **fields}
        )
        folder.mkdir(parents=True)
        content = {"config": config.to_dict(), "environment": ENVIRONMENT}
        (folder / "config.json").write_text(json.dumps(content))
        for seed, values in returns.items():
            writer = MetricsWriter(
                folder, [seed], tensorboard=False, wandb="off", wandb_project="", config={}
            )
            for index, (step, value) in enumerate(zip(steps, values)):
                row = {"wall_clock": 60.0 * minutes * (index + 1), "eval/return": value}
                writer.write(step, [row | (columns or {})])
        return folder

    return make


@pytest.fixture
def _few_resamples(monkeypatch):
    """Makes intervals coarse but quick, for tests that do not look at them."""
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
