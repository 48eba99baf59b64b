"""The example of docs/objectives.md, as a reader would use it."""

import re

import numpy as np

from experiment import loop, metrics
from models.objectives import OBJECTIVES
from tests.integration import tiny

PAGE = tiny.REPOSITORY / "docs" / "objectives.md"


def example():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def test_the_example_is_short():
    assert len(example().splitlines()) <= 40


def test_an_agent_trains_with_the_example(tmp_path, monkeypatch):
    module = {}
    exec(compile(example(), PAGE.name, "exec"), module)
    monkeypatch.setitem(OBJECTIVES, "reward_first", module["make"])
    config = tiny.config(model__objective="reward_first", model__validation="objective")
    loop.train_and_evaluate(config, tmp_path / "run")
    frame = metrics.read_refreshes(tmp_path / "run")[0]
    assert len(frame) == 8
    assert np.isfinite(frame["model/train_reward_first"]).all()
    # early stopping and elites went by the objective, so it is among what was held out
    assert (frame["model/holdout_objective"] > 0).all()
