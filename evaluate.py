"""Plays new greedy episodes with the policy of a run: returns per seed, terminations, a video.

Usage:
    python evaluate.py --workdir runs/mine            20 episodes, latest checkpoint
    python evaluate.py --workdir runs/mine --episodes 50 --checkpoint best
    python evaluate.py --workdir runs/mine --video mine.mp4             one episode per seed

Works on finished, stopped and running runs. Writes <checkpoint>.csv and .md, by default to the
folder evaluation in the run folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from errors import UserError
from experiment import command_line, renderer


def main(argv: Sequence[str]) -> None:
    """Does what the command line `argv`, without the program's name, asks for."""
    options = _parser().parse_args(argv)
    if options.episodes < 1:
        raise UserError(f"--episodes has to be at least 1, got {options.episodes}.")
    if options.video and options.video.suffix != ".mp4":
        raise UserError(f"--video writes MP4 files, so its name ends in .mp4; got {options.video}.")
    problem = renderer.choose() if options.video else None  # before MuJoCo is imported

    from experiment import final_evaluation, restore, runtime

    runtime.configure(num_seeds=1)  # one device: greedy actions are cheap
    restored = restore.restore(options.workdir, options.checkpoint)
    if problem and "mujoco" in sys.modules:  # other environments do not need it
        raise UserError(problem)
    episodes = final_evaluation.play(restored, options.episodes)
    table = final_evaluation.episode_table(restored.seeds, episodes)
    terminations = final_evaluation.compare_terminations(restored.spec, episodes)
    text = final_evaluation.describe(restored, options.checkpoint, table, terminations)
    print(text)
    folder = options.out or options.workdir / "evaluation"
    path = final_evaluation.write(folder, options.checkpoint, table, text)
    print(f"\nWritten to {path}")
    if options.video:
        from experiment import video

        video.record(restored, options.video)
        print(f"Video: {options.video}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--episodes", type=int, default=20, help="per seed (default: 20)")
    parser.add_argument(
        "--checkpoint", choices=("latest", "best"), default="latest", help="default: latest"
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="film one episode per seed")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: WORKDIR/evaluation")
    return parser


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
