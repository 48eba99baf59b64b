"""Rendering MuJoCo on machines without a display."""

import os
import subprocess
import sys

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


def choose() -> str | None:
    """Sets `MUJOCO_GL` to the first renderer that works without a display.

    Has to be called before MuJoCo is imported. A renderer that the user has set is the only one
    tried. If none works, MuJoCo cannot draw in this process; other environments still can.

    Returns:
      Why MuJoCo cannot draw on this machine and what to install; None if it can.
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
            return None
        problems.append(f"  {renderer}: {(trial.stderr.strip().splitlines() or ['crashed'])[-1]}")
    os.environ["MUJOCO_GL"] = "disabled"  # otherwise its import fails, or it asks for a display
    return (
        "This machine cannot render MuJoCo, so there is no video:\n"
        + "\n".join(problems)
        + "\nInstall one of the two (Debian, Ubuntu: apt install libegl1, or libosmesa6), set "
        "MUJOCO_GL yourself, or leave --video out."
    )
