"""The README's tour of the tools, command by command as it is written, with small numbers."""

import re
import shlex
import subprocess
import sys

import pytest

from errors import UserError
from experiment import renderer
from tests.integration import tiny

SECTION = "## From runs to conclusions"
SMALL = {"total_steps": 114, "initial_steps": 64, "epoch_length": 25}


def commands():
    """The command lines of the section's first block, continued lines joined, comments dropped."""
    text = (tiny.REPOSITORY / "README.md").read_text().partition(SECTION)[2]
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def shortened(script, arguments):
    """The same command on a run of seconds."""
    if script not in ("train.py", "sweep.py"):
        return arguments
    kept = [a for a in arguments if not a.startswith("--config.total_steps")]
    if script == "sweep.py":
        kept[kept.index("--seeds") + 1] = "1"
    return [*kept, *tiny.flags(**SMALL)]


def can_render():
    try:
        renderer.choose()
    except UserError:
        return False
    return True


@pytest.mark.slow
def test_every_command_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    (tmp_path / "configs").symlink_to(tiny.REPOSITORY / "configs")
    scripts = []
    for program, script, *arguments in commands():
        assert program == "python"
        if "--video" in arguments and not can_render():
            del arguments[arguments.index("--video") :][:2]
        command = [sys.executable, str(tiny.REPOSITORY / script), *shortened(script, arguments)]
        result = subprocess.run(
            command, capture_output=True, timeout=300, **tiny.process_options(cwd=tmp_path)
        )
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
        scripts.append(script)
    assert scripts == ["train.py", "evaluate.py", "diagnose.py", "sweep.py", "report.py"]
    for left_behind in (
        "runs/mine/evaluation/latest.md",
        "runs/mine/diagnosis/diagnosis.png",
        "sweeps/first/sweep.json",
    ):
        assert (tmp_path / left_behind).is_file(), left_behind
    assert list((tmp_path / "reports").glob("*/report.md"))
