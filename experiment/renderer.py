"""Rendering MuJoCo on machines without a display."""

import os
import subprocess
import sys

from errors import UserError

RENDERERS = ("egl", "osmesa")  # on a GPU or its emulation; in software

_DRAW_A_SPHERE = """
import mujoco
xml = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
"""


def choose() -> None:
    """Sets `MUJOCO_GL` to the first renderer that works without a display.

    Has to be called before MuJoCo is imported. A renderer that the user has set is respected.

    Raises:
      UserError: none works on this machine.
    """
    chosen = os.environ.get("MUJOCO_GL")
    problems = []
    for renderer in (chosen,) if chosen else RENDERERS:
        environment = os.environ | {"MUJOCO_GL": renderer}
        trial = subprocess.run(
            [sys.executable, "-c", _DRAW_A_SPHERE], env=environment, capture_output=True, text=True
        )
        if trial.returncode == 0:
            os.environ["MUJOCO_GL"] = renderer
            return
        problems.append(f"  {renderer}: {(trial.stderr.strip().splitlines() or ['crashed'])[-1]}")
    raise UserError(
        "This machine cannot render MuJoCo, so there is no video:\n"
        + "\n".join(problems)
        + "\nInstall one of the two (Debian, Ubuntu: apt install libegl1, or libosmesa6), set "
        "MUJOCO_GL yourself, or leave --video out."
    )
