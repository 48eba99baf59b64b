"""Plays new greedy episodes with the policy of a run: returns per seed, terminations, a video.

Usage:
    python evaluate.py --workdir runs/mine            20 episodes, latest checkpoint
    python evaluate.py --workdir runs/mine --episodes 50 --checkpoint best
    python evaluate.py --workdir runs/mine --video mine.mp4             one episode per seed

Works on finished, stopped and running runs. Writes evaluation/<checkpoint>.csv and .md there.
"""

import argparse
import sys
from pathlib import Path

from errors import UserError
from experiment import command_line, renderer


def main(arguments: argparse.Namespace) -> None:
    """Evaluates, prints and writes what came out, and films it if asked to."""
    if arguments.episodes < 1:
        raise UserError(f"--episodes has to be at least 1, got {arguments.episodes}.")
    if arguments.video and arguments.video.suffix != ".mp4":
        raise UserError(
            f"--video writes MP4 files, so its name ends in .mp4; got {arguments.video}."
        )
    if arguments.video:
        renderer.choose()  # before MuJoCo is imported

    from experiment import final_evaluation, restore, runtime

    runtime.configure(num_seeds=1)  # one device: greedy actions are cheap
    restored = restore.restore(arguments.workdir, arguments.checkpoint)
    episodes = final_evaluation.play(restored, arguments.episodes)
    table = final_evaluation.episode_table(restored.seeds, episodes)
    counts = final_evaluation.count_terminations(restored.spec, episodes)
    text = final_evaluation.describe(restored, arguments.checkpoint, table, counts)
    path = final_evaluation.write(arguments.workdir, arguments.checkpoint, table, text)
    print(f"{text}\n\nWritten to {path}")
    if arguments.video:
        from experiment import video

        video.record(restored, arguments.video)
        print(f"Video: {arguments.video}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--episodes", type=int, default=20, help="per seed (default: 20)")
    parser.add_argument(
        "--checkpoint", choices=("latest", "best"), default="latest", help="default: latest"
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="film one episode per seed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with command_line.user_errors():
        main(parse(sys.argv[1:]))
