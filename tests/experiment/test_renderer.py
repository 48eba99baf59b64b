import os
import subprocess
import sys

import pytest

from errors import UserError
from experiment import renderer


def test_none_that_works_is_said_with_what_to_install(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(renderer, "RENDERERS", ("nonsense", "disabled"))
    with pytest.raises(
        UserError, match=r"(?s)nonsense: .*disabled: .*apt install libegl1"
    ) as error:
        renderer.choose()
    assert "MUJOCO_GL" not in os.environ
    assert "--video" in str(error.value)


def test_the_first_that_works_is_chosen(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(
        renderer, "_DRAW_A_SPHERE", "import os; assert os.environ['MUJOCO_GL'] == 'osmesa'"
    )
    renderer.choose()
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_a_choice_of_the_user_is_the_only_one_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(UserError, match="disabled: ") as error:
        renderer.choose()
    assert "egl: " not in str(error.value)
    assert os.environ["MUJOCO_GL"] == "disabled"


def test_what_was_chosen_draws_an_environment():
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
    try:
        renderer.choose()
    except UserError:
        pytest.skip("this machine cannot render MuJoCo")
    subprocess.run([sys.executable, "-c", code], check=True)
