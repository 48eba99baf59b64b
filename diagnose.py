"""Compares a run's dynamics model and values with new episodes of the real environment.

Usage:
    python diagnose.py --workdir runs/mine                     10 episodes per seed, 20 steps ahead
    python diagnose.py --workdir runs/mine --episodes 30 --horizon 50 --out diagnoses/mine

Works on finished, stopped and running runs. Writes diagnosis.md, .png and .csv, by default to the
folder diagnosis in the run folder; docs/diagnosis.md explains every number.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from errors import UserError
from experiment import command_line


def main(argv: Sequence[str]) -> None:
    """Does what the command line `argv`, without the program's name, asks for."""
    options = _parser().parse_args(argv)
    for name, value in {"episodes": options.episodes, "horizon": options.horizon}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} has to be at least 1, got {value}.")

    # JAX is imported from here on, so that a misspelt flag is reported without waiting for it.
    from analysis import diagnosis_report, diagnosis_text
    from experiment import diagnosis, restore, runtime

    runtime.configure(num_seeds=1)  # seeds are looked at one after the other
    restored = restore.restore(options.workdir)
    frame = diagnosis.diagnose(restored, options.episodes, options.horizon)
    print(diagnosis_text.paragraph(frame))
    path = diagnosis_report.write(frame, options.out or options.workdir / "diagnosis")
    print(f"\nWritten to {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--episodes", type=int, default=10, help="per seed (default: 10)")
    parser.add_argument(
        "--horizon",
        type=int,
        help="steps predicted open loop (default: 20, or the longest episode if it is shorter)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: WORKDIR/diagnosis")
    return parser


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
