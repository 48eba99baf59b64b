"""The command evaluate.py, on a run that was really trained."""

import subprocess
import sys

import imageio_ffmpeg
import pytest

from tests.integration import tiny

WITHOUT_MUJOCO = """
import gymnasium, numpy as np
from envs import register, terminations

class Env(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), 1.0, False, self.time == 5, {}

    def render(self):
        return np.full((32, 32, 3), 50 * self.time, np.uint8)

register("Drawn-v0", termination=terminations.never, make=Env)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    flags = tiny.flags(**{"total_steps": 114, "epoch_length": 50, "num_seeds": 2})
    result = tiny.train("--config=configs/sac.py", *flags, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def evaluate(*arguments, renderer=None, paths=()):
    command = [sys.executable, str(tiny.REPOSITORY / "evaluate.py"), *map(str, arguments)]
    options = tiny.process_options(*paths)
    del options["env"]["MUJOCO_GL"]  # users have none, so the command has to choose
    if renderer is not None:
        options["env"]["MUJOCO_GL"] = renderer
    return subprocess.run(command, capture_output=True, **options)


def test_returns_are_printed_and_written(workdir):
    result = evaluate("--workdir", workdir, "--episodes", 4, "--checkpoint", "best")
    assert result.returncode == 0, result.stderr
    path = workdir / "evaluation" / "best.md"
    text = path.read_text().strip()
    assert result.stdout == f"{text}\n\nWritten to {path}\n"
    assert "on 4 new episodes of each of 2 seeds" in text
    assert "agrees with the simulator" in text
    assert len(path.with_suffix(".csv").read_text().splitlines()) == 1 + 2 * 4


def test_the_same_command_gives_the_same_numbers_wherever_they_are_written(workdir, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b" / "c"]
    for folder in folders:
        result = evaluate("--workdir", workdir, "--episodes", 3, "--out", folder)
        assert f"Written to {folder}/latest.md" in result.stdout
    files = [
        [(folder / f"latest.{kind}").read_text() for kind in ("md", "csv")] for folder in folders
    ]
    assert files[0] == files[1]
    assert not (workdir / "evaluation" / "latest.md").exists()


def test_what_cannot_be_written_is_printed_all_the_same(workdir):
    result = evaluate("--workdir", workdir, "--episodes", 1, "--out", "/proc/nowhere")
    assert result.returncode == 2
    assert "the greedy policy reaches a return of **" in result.stdout
    assert "The evaluation could not be written to /proc/nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_video_shows_both_seeds_until_the_end(workdir, tmp_path, monkeypatch):
    # Otherwise the reader is started by a fork, of which JAX warns once it runs in this process.
    monkeypatch.setenv("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    path = tmp_path / "films" / "run.mp4"
    result = evaluate("--workdir", workdir, "--episodes", 1, "--video", path, "--out", tmp_path)
    if "This machine cannot render MuJoCo" in result.stderr:
        pytest.skip("this machine cannot render MuJoCo")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"\nVideo: {path}\n")
    lengths = [int(row.split(",")[3]) for row in (tmp_path / "latest.csv").read_text().split()[1:]]
    reader = imageio_ffmpeg.read_frames(path)
    assert next(reader)["size"] == (2 * 480, 512)  # 480 by 480, and a caption, in blocks of 16
    reader.close()
    assert imageio_ffmpeg.count_frames_and_secs(path)[0] == max(lengths)


def test_without_a_renderer_it_is_said_what_to_install(workdir, tmp_path):
    arguments = "--workdir", workdir, "--video", tmp_path / "run.mp4"
    result = evaluate(*arguments, renderer="nonsense")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "apt install libegl1" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_other_environments_are_filmed_without_a_renderer_for_mujoco(tmp_path):
    (tmp_path / "my_envs.py").write_text(WITHOUT_MUJOCO)
    run, film = tmp_path / "run", tmp_path / "run.mp4"
    flags = tiny.flags(total_steps=65, num_seeds=1)
    command = ["--config=configs/sac.py", "--config.env=my_envs:Drawn-v0", f"--workdir={run}"]
    result = tiny.train(*command, *flags, paths=[tmp_path])
    assert result.returncode == 0, result.stderr
    result = evaluate("--workdir", run, "--video", film, renderer="nonsense", paths=[tmp_path])
    assert result.returncode == 0, result.stderr
    assert imageio_ffmpeg.count_frames_and_secs(film)[0] == 5


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
