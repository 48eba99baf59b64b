"""Trains a grid of configurations, each with several seeds, on one machine or a Ray cluster.

Usage:
    python sweep.py --config=configs/mbpo.py --grid "config.algo=mbpo,sac" --seeds 5 --out sweeps/a
    python sweep.py ... --config.total_steps=5000      any override of train.py, for all trials
    python sweep.py ... --seeds-per-trial 5 --gpus-per-trial 1       seeds together on a GPU
    python sweep.py ... --ray-address auto             on a running Ray cluster: docs/sweeps.md
    python sweep.py ...                                again with the same --out: continues
"""

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import UserError
from experiment import command_line

_TRIAL_FAILED = 1  # exit status


def main(argv: Sequence[str]) -> None:
    """Does what the command line `argv`, without the program's name, asks for."""
    options, overrides = _parse(argv)
    from experiment import sweep, sweep_folder, sweep_plan  # here, so that --help is immediate

    command = shlex.join(["python", "sweep.py", *argv])
    grid = sweep_plan.parse_grid(options.grid)
    base = sweep_plan.read_base(overrides)
    trials = sweep_plan.plan(overrides, grid, options.seeds, options.seeds_per_trial, options.out)
    sweep_folder.open_sweep(options.out, command, base, grid, trials)
    statuses = sweep.look_up(trials)
    try:
        sweep.run(
            statuses,
            options.ray_address,
            options.cpus_per_trial,
            options.gpus_per_trial,
            options.retries,
        )
    except KeyboardInterrupt:
        print(f"Interrupted. Continue with\n  {command}", file=sys.stderr)
        raise SystemExit(command_line.INTERRUPTED) from None
    print(sweep.summary(statuses, options.out))
    if any(status.problem for status in statuses):
        raise SystemExit(_TRIAL_FAILED)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags of the sweep, and those meant for train.py in their order."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config=FILE] [--config.FIELD=VALUE ...] --out DIR [option ...]",
        allow_abbrev=False,
    )
    add, count = parser.add_argument, _at_least(1, int)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the sweep")
    add("--grid", default="", help="field=value,value,...;field=...: all combinations are trained")
    add("--seeds", type=count, default=1, metavar="N", help="per grid point, from config.seed on")
    add("--seeds-per-trial", type=count, default=1, metavar="N", help="trained in one process")
    add("--cpus-per-trial", type=count, metavar="N", help="default: one per seed in the trial")
    add("--gpus-per-trial", type=_at_least(0, float), default=0.0, metavar="X", help="default: 0")
    add("--retries", type=_at_least(0, int), default=3, metavar="N", help="of a killed trial")
    add("--ray-address", metavar="HOST:PORT", help="or auto; default: a cluster on this machine")
    options, rest = parser.parse_known_args(argv)
    known = [f"--{name.replace('_', '-')}" for name in vars(options)]
    for argument in rest:
        name = argument.partition("=")[0]
        if name.startswith("--") and not re.match(r"--(no)?(config\b|workdir$)", name):
            similar = difflib.get_close_matches(name, known, n=1) or known
            raise UserError(f"{name}: no such flag. Did you mean {' or '.join(similar)}?")
    return options, rest


def _at_least(smallest: int, convert: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = convert(text)
        if not value >= smallest:
            raise argparse.ArgumentTypeError(f"{text} is too small: use {smallest} or more")
        return value

    return number


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
