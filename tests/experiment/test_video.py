import contextlib
from typing import ClassVar

import gymnasium
import imageio
import jax.numpy as jnp
import numpy as np
import pytest

from envs import register, terminations
from errors import UserError
from experiment import video
from experiment.restore import Restored
from tests.experiment import toy
from tests.integration import tiny

# imageio's reader leaves the pipes of its process to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SHADE = 20  # grey levels per step
LENGTHS = (6, 3)  # steps of the episodes of both seeds
CAPTION, PICTURE = slice(0, 18), slice(24, 44)  # rows


class Film(gymnasium.Env):
    """Gets brighter with every step; an action of -1 ends the episode early."""

    metadata: ClassVar = {"render_fps": 25, "render_modes": ["rgb_array"]}
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self._time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._time += 1
        over = self._time == (LENGTHS[1] if action[0] < 0 else LENGTHS[0])
        return np.zeros(1, np.float32), 1.5, over, False, {}

    def render(self):
        return np.full((30, 40, 3), SHADE * self._time, np.uint8)


register("Film-v0", termination=terminations.never, make=Film)
tiny.register_clock("NoPictures-v0", 3, terminates=True)


def agent(env="Film-v0"):
    config = tiny.config("sac", env=env, num_seeds=2)
    acting = toy.agent(lambda policy, seen: jnp.full((seen.shape[0], 1), policy))
    return Restored(config, tiny.spec(), [0, 1], acting, 0, None, jnp.array([1.0, -1.0]))


def test_seeds_are_shown_side_by_side_until_the_last_one_is_over(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    video.record(agent(), path)
    with imageio.get_reader(path) as reader:
        assert reader.get_meta_data()["fps"] == Film.metadata["render_fps"]
        frames = np.stack([np.asarray(frame, int) for frame in reader])
    assert frames.shape == (LENGTHS[0], 64, 96, 3)  # 50 by 40 each, in blocks of 16
    for k, left in enumerate((0, 48)):
        shades = frames[:, PICTURE, left + 4 : left + 36].mean(axis=(1, 2, 3))
        expected = SHADE * np.minimum(np.arange(1, LENGTHS[0] + 1), LENGTHS[k])
        np.testing.assert_allclose(shades, expected, atol=4)  # the codec rounds
        assert frames[:, CAPTION, left : left + 40].std() > 20  # there is writing


def test_more_pictures_than_a_screen_shows_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Film, "metadata", Film.metadata | {"render_fps": 120})
    video.record(agent(), tmp_path / "film.mp4")
    with imageio.get_reader(tmp_path / "film.mp4") as reader:
        assert reader.get_meta_data()["fps"] == 60
        shades = [frame[PICTURE, 4:36].mean() for frame in reader]
    np.testing.assert_allclose(shades, [2 * SHADE, 4 * SHADE, 6 * SHADE], atol=4)


def test_an_environment_without_pictures_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"NoPictures-v0.*render_mode"):
        video.record(agent("NoPictures-v0"), tmp_path / "film.mp4")


def test_a_renderer_that_fails_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Film, "render", lambda self: 1 / 0)
    with pytest.raises(
        UserError, match=r"Film-v0 could not be rendered: ZeroDivisionError: .*\nInstall"
    ):
        video.record(agent(), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def render(self):
        assert self._time < 4, "driver lost"
        return np.zeros((30, 40, 3), np.uint8)

    monkeypatch.setattr(Film, "render", render)
    with pytest.raises(UserError, match="AssertionError: driver lost"):
        video.record(agent(), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_pictures_are_encoded_while_the_episodes_go_on(tmp_path, monkeypatch):
    events = []

    def render(self):
        events.append("picture")
        return np.zeros((30, 40, 3), np.uint8)

    def spied(*arguments, **options):
        with contextlib.closing(write_frames(*arguments, **options)) as encoder:
            frame = yield encoder.send(None)
            while True:
                encoder.send(frame)
                events.append("frame")
                frame = yield

    write_frames = video.imageio_ffmpeg.write_frames
    monkeypatch.setattr(Film, "render", render)
    monkeypatch.setattr(video.imageio_ffmpeg, "write_frames", spied)
    video.record(agent(), tmp_path / "film.mp4")
    both, one = ["picture", "picture", "frame"], ["picture", "frame"]
    assert events == both * LENGTHS[1] + one * (LENGTHS[0] - LENGTHS[1])


def test_an_encoder_without_words_is_a_user_error(tmp_path, monkeypatch):
    def silent(*arguments, **options):
        raise OSError

    monkeypatch.setattr(video.imageio_ffmpeg, "write_frames", silent)
    with pytest.raises(UserError, match=r"film\.mp4: OSError\. .* are free there"):
        video.record(agent(), tmp_path / "film.mp4")


def test_a_file_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(UserError, match=r"could not be written to .*film\.mp4"):
        video.record(agent(), tmp_path / "film.mp4")
