"""The command evaluate.py, on a run that was really trained."""

import subprocess
import sys

import pytest

from tests.integration import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    flags = tiny.flags(**{"total_steps": 114, "epoch_length": 50, "num_seeds": 2})
    result = tiny.train("--config=configs/sac.py", *flags, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def evaluate(*arguments):
    command = [sys.executable, str(tiny.REPOSITORY / "evaluate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **tiny.process_options())


def test_returns_are_printed_and_written(workdir):
    result = evaluate("--workdir", workdir, "--episodes", 4, "--checkpoint", "best")
    assert result.returncode == 0, result.stderr
    text = (workdir / "evaluation" / "best.md").read_text().strip()
    assert text in result.stdout
    assert "on 4 new episodes of each of 2 seeds" in text
    assert "agrees with the simulator" in text
    assert len((workdir / "evaluation" / "best.csv").read_text().splitlines()) == 1 + 2 * 4


def test_the_same_command_gives_the_same_numbers(workdir):
    texts = [evaluate("--workdir", workdir, "--episodes", 3).stdout for _ in range(2)]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--episodes", "0"], "--episodes has to be at least 1"),
        (["--checkpoint", "worst"], "invalid choice: 'worst'"),
        (["--video", "film.gif"], "ends in .mp4; got film.gif"),
        (["--workdir", "/nowhere"], "/nowhere is not a run folder"),
    ],
)
def test_mistakes_get_a_message_and_exit_status_2(workdir, arguments, expected):
    result = evaluate("--workdir", workdir, *arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
