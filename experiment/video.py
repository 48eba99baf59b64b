"""A film of one episode per seed, side by side."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from errors import UserError
from experiment.actors import TEST
from experiment.evaluation import Evaluator
from experiment.files import free_space
from experiment.restore import Restored

MAX_FRAMES_PER_SECOND = 60.0  # players and eyes drop what is above; MuJoCo's go up to 125
CAPTION_HEIGHT = 20  # pixels
CAPTION_COLOR = (60, 60, 60)
BLOCK = 16  # pixels; video codecs want sizes that are multiples of it


def record(restored: Restored, path: Path) -> None:
    """Films the first greedy test episode of every seed, in real time, as an MP4 file.

    An episode that is over stands still until the longest one is. Pictures are encoded while the
    episodes go on, so no more than one of every seed is kept.

    Args:
      restored: agent of a checkpoint.
      path: the file; its folder is created.

    Raises:
      UserError: the environment cannot be rendered, or the file cannot be written.
    """
    evaluator = Evaluator(
        restored.config.env, restored.seeds, 1, stream=TEST, render_mode="rgb_array"
    )
    with contextlib.closing(evaluator):
        rate = evaluator.frames_per_second()
        every = max(round(rate / MAX_FRAMES_PER_SECOND), 1)
        _write(path, _frames(restored, evaluator, every), rate / every)


def _frames(restored: Restored, evaluator: Evaluator, every: int) -> Iterator[np.ndarray]:
    try:
        yield from _side_by_side(restored, evaluator, every)
    except Exception as error:  # each environment and driver has errors of its own
        raise UserError(
            f"{restored.config.env} could not be rendered: {type(error).__name__}: {error}\n"
            "Install what its pictures need, or leave --video out."
        ) from error


def _side_by_side(restored: Restored, evaluator: Evaluator, every: int) -> Iterator[np.ndarray]:
    """Yields the pictures [H, S W, 3] of all seeds, after each `every` steps and at the end."""
    pictures: dict[int, np.ndarray] = {}
    returns = [0.0 for _ in restored.seeds]
    running = len(restored.seeds)
    steps = evaluator.play(restored.greedy(episodes=1), restored.env_step)
    for time, step in enumerate(steps, start=1):
        for k, n, transition in step:
            returns[k] += float(transition.reward)
            over = bool(transition.terminated or transition.truncated)
            running -= over
            if time % every == 0 or over:
                caption = f"seed {restored.seeds[k]}   step {time}   return {returns[k]:.1f}"
                pictures[k] = _captioned(evaluator.render(k, n), caption + " (end)" * over)
        if time % every == 0 or not running:
            yield np.concatenate([pictures[k] for k in range(len(restored.seeds))], axis=1)


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    height, width = picture.shape[:2]
    size = -(-width // BLOCK) * BLOCK, -(-(height + CAPTION_HEIGHT) // BLOCK) * BLOCK
    image = Image.new("RGB", size, CAPTION_COLOR)
    image.paste(Image.fromarray(picture), (0, CAPTION_HEIGHT))
    ImageDraw.Draw(image).text((6, 3), caption, fill="white", font=ImageFont.load_default(13))
    return np.asarray(image)


def _write(path: Path, frames: Iterator[np.ndarray], rate: float) -> None:
    """Encodes pictures [H, W, 3] as they come; the file is complete or absent."""
    # Otherwise the encoder is started by a fork, which JAX warns of.
    os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
    temporary = path.with_name(f".tmp_{path.name}")
    first = next(frames)
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder = imageio_ffmpeg.write_frames(
            temporary, first.shape[1::-1], fps=rate, macro_block_size=BLOCK
        )
        with contextlib.closing(encoder):
            encoder.send(None)  # starts it
            for frame in itertools.chain([first], frames):
                encoder.send(frame)
                count += 1
        if imageio_ffmpeg.count_frames_and_secs(temporary)[0] != count:
            raise OSError("the encoder stopped early")
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # of the encoder as well, in lines of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The video could not be written to {path}: {reason}. "
            f"{free_space(path.parent)} are free there; choose another place for it."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
