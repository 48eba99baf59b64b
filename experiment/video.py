"""A film of one episode per seed, side by side."""

import contextlib
import os
from pathlib import Path

import imageio_ffmpeg
import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from errors import UserError
from experiment.actors import TEST
from experiment.evaluation import Evaluator
from experiment.files import free_space
from experiment.restore import Restored
from replay import Transition

MAX_FRAMES_PER_SECOND = 60.0  # players and eyes drop what is above; MuJoCo's go up to 125
CAPTION_HEIGHT = 20  # pixels
CAPTION_COLOR = (60, 60, 60)
BLOCK = 16  # pixels; video codecs want sizes that are multiples of it


def record(restored: Restored, path: Path) -> None:
    """Films the first greedy test episode of every seed, in real time, as an MP4 file.

    An episode that is over stands still until the longest one is.

    Args:
      restored: agent of a checkpoint.
      path: the file; its folder is created.

    Raises:
      UserError: the environment cannot be rendered, or the file cannot be written.
    """
    act = jax.jit(jax.vmap(restored.agent.act))
    evaluator = Evaluator(
        restored.config.env, restored.seeds, 1, stream=TEST, render_mode="rgb_array"
    )
    rate = evaluator.frames_per_second()
    every = max(round(rate / MAX_FRAMES_PER_SECOND), 1)
    returns = [0.0] * len(restored.seeds)
    films: list[list[np.ndarray]] = [[] for _ in restored.seeds]
    steps = [0] * len(restored.seeds)

    def on_step(k: int, n: int, transition: Transition) -> None:
        returns[k] += float(transition.reward)
        steps[k] += 1
        over = transition.terminated or transition.truncated
        if steps[k] % every == 0 or over:
            caption = f"seed {restored.seeds[k]}   step {steps[k]}   return {returns[k]:.1f}"
            films[k].append(_captioned(evaluator.render(k, n), caption + " (end)" * bool(over)))

    try:
        evaluator.run(
            lambda observations: act(restored.policy, observations), restored.env_step, on_step
        )
    except UserError:
        raise
    except Exception as error:  # each environment and driver has errors of its own
        raise UserError(
            f"{restored.config.env} could not be rendered: {type(error).__name__}: {error}\n"
            "Install what its pictures need, or leave --video out."
        ) from error
    finally:
        evaluator.close()
    _write(path, films, rate / every)


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    height, width = picture.shape[:2]
    size = -(-width // BLOCK) * BLOCK, -(-(height + CAPTION_HEIGHT) // BLOCK) * BLOCK
    image = Image.new("RGB", size, CAPTION_COLOR)
    image.paste(Image.fromarray(picture), (0, CAPTION_HEIGHT))
    ImageDraw.Draw(image).text((6, 3), caption, fill="white", font=ImageFont.load_default(13))
    return np.asarray(image)


def _write(path: Path, films: list[list[np.ndarray]], rate: float) -> None:
    """Writes the films side by side; the file is complete or absent."""
    # Otherwise the encoder is started by a fork, which JAX warns of.
    os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
    temporary = path.with_name(f".tmp_{path.name}")
    height, width = films[0][0].shape[:2]
    length = max(len(film) for film in films)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder = imageio_ffmpeg.write_frames(
            temporary, (width * len(films), height), fps=rate, macro_block_size=BLOCK
        )
        with contextlib.closing(encoder):
            encoder.send(None)  # starts it
            for index in range(length):
                frames = [film[min(index, len(film) - 1)] for film in films]
                encoder.send(np.concatenate(frames, axis=1))
        if imageio_ffmpeg.count_frames_and_secs(temporary)[0] != length:
            raise OSError("the encoder stopped early")
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # of the encoder as well, in lines of its own
        temporary.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The video could not be written to {path}: {reason}. "
            f"{free_space(path.parent)} are free there; choose another place for it."
        ) from error
