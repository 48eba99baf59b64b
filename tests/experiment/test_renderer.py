import os
import re
import subprocess
import sys

import pytest

from experiment import renderer


def test_none_that_works_gives_advice_and_keeps_mujoco_from_drawing(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(renderer, "RENDERERS", ("nonsense", "off"))
    advice = renderer.choose()
    assert re.search(r"(?s)cannot render.*nonsense: .*off: .*apt install libegl1.*--video", advice)
    assert os.environ["MUJOCO_GL"] == "disabled"


def test_the_first_that_works_is_chosen(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(
        renderer, "_DRAW_A_SPHERE", "import os; assert os.environ['MUJOCO_GL'] == 'osmesa'"
    )
    assert renderer.choose() is None
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_a_choice_of_the_user_is_the_only_one_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    advice = renderer.choose()
    assert "nonsense: " in advice
    assert "egl: " not in advice


def test_what_was_chosen_draws_an_environment(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL")
    code = """
from experiment import renderer
renderer.choose()
import envs
env = envs.make("InvertedPendulum-v5", "rgb_array")
env.reset(seed=0)
picture = env.render()
assert picture.shape == (480, 480, 3) and picture.std() > 1
env.close()
"""
    if renderer.choose() is not None:
        pytest.skip("this machine cannot render MuJoCo")
    subprocess.run([sys.executable, "-c", code], check=True)
