"""Compares a run's dynamics model and values with new episodes of the real environment.

Usage:
    python diagnose.py --workdir runs/mine                     10 episodes per seed, 20 steps ahead
    python diagnose.py --workdir runs/mine --episodes 30 --horizon 50 --out diagnoses/mine

Works on finished, stopped and running runs. Writes diagnosis.md, .png and .csv, by default to the
folder diagnosis in the run folder; docs/diagnosis.md explains every number.
"""

import argparse
import sys
from pathlib import Path

from errors import UserError
from experiment import command_line


def main(arguments: argparse.Namespace) -> None:
    """Diagnoses, writes the files and prints the finding."""
    for name in ("episodes", "horizon"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} has to be at least 1, got {getattr(arguments, name)}.")

    # JAX is imported from here on, so that a misspelt flag is reported without waiting for it.
    from analysis import diagnosis_report
    from experiment import diagnosis, restore, runtime

    runtime.configure(num_seeds=1)  # seeds are looked at one after the other
    restored = restore.restore(arguments.workdir)
    frame = diagnosis.diagnose(restored, arguments.episodes, arguments.horizon)
    folder = arguments.out or arguments.workdir / "diagnosis"
    print(diagnosis_report.write(frame, folder))
    print(f"\nWritten to {folder / 'diagnosis.md'}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--episodes", type=int, default=10, help="per seed (default: 10)")
    parser.add_argument(
        "--horizon", type=int, default=20, help="steps predicted open loop (default: 20)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: WORKDIR/diagnosis")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with command_line.user_errors():
        main(parse(sys.argv[1:]))
