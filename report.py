"""Compares finished or running runs: learning curves, tables and a finding in words.

Usage:
    python report.py runs/mbpo runs/sac                      two runs
    python report.py sweeps/width                            every run folder below
    python report.py runs --group-by algo --out reports/all  pool whatever else differs
    python report.py --redraw reports/all                    its figures again, from its CSV files
    python report.py results --leaderboard results/README.md
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from errors import UserError
from experiment import command_line


def main(argv: Sequence[str]) -> None:
    """Does what the command line `argv`, without the program's name, asks for."""
    options = _parser().parse_args(argv)
    if options.redraw:
        from analysis import comparison_figures

        comparison_figures.draw(options.redraw)
        print(f"Drawn again: {options.redraw}")
    elif not options.runs:
        raise UserError("name at least one run folder, or a folder with runs below, such as runs/.")
    elif options.leaderboard:
        from analysis import leaderboard

        leaderboard.write(options.runs, options.leaderboard)
        print(f"Leaderboard: {options.leaderboard}")
    else:
        from analysis import comparison_report  # here, so that --help does not wait for it

        out = options.out or Path("reports", time.strftime("%Y%m%d-%H%M%S"))
        text = comparison_report.write_report(
            options.runs,
            out,
            shlex.join(["python", "report.py", *argv]),
            group_by=options.group_by,
            threshold=options.threshold,
            interval=options.interval,
        )
        print(f"{text}\n\nReport: {out / 'report.md'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folder, or above")
    parser.add_argument(
        "--group-by",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        metavar="FIELDS",
        help="config fields, e.g. algo,model.hidden_width; default: those in which runs differ",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/<time>")
    parser.add_argument(
        "--threshold", type=_finite, metavar="X", help="return for the steps to reach it"
    )
    parser.add_argument(
        "--interval", choices=["expanded", "percentile"], default="expanded", help="bootstrap"
    )
    parser.add_argument("--redraw", type=Path, metavar="DIR", help="draw a report's figures again")
    parser.add_argument(
        "--leaderboard", type=Path, metavar="FILE", help="write the page of results"
    )
    return parser


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no return: give a number such as 900")
    return value


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
