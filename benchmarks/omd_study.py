"""OMD against MLE and VEP on CartPole: figures 4 and 5 and table 1 of Nikishin et al. 2022.

    python benchmarks/omd_study.py --steps=200000              36 runs of ten seeds
    python benchmarks/omd_study.py --widths=2 --distractors=   a part of them
    python benchmarks/omd_study.py --report-only               the report on those that have ended
    python benchmarks/omd_study.py --report-only --copy-to=results/omd/cartpole

Runs train.py for one point after the other, in a folder each below --out. The same command
continues: what has ended is skipped, what was interrupted resumes; a run of which a seed diverges
ends there, and counts as it stood. Then `points.csv` has a row per point and seed (returns, errors
and values are means of the last ten evaluations or epochs, as single ones are noisy; `wall_clock`
is that of all seeds of the point), `curves.csv` every fifth evaluation, and `report.md` says what
was found.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis import omd_study, omd_study_report  # noqa: E402
from analysis.omd_study import DEFAULT_WIDTH, Point  # noqa: E402
from benchmarks.running import copy, is_finished, logged  # noqa: E402
from errors import UserError  # noqa: E402
from experiment import command_line, metrics  # noqa: E402
from experiment.progress import duration  # noqa: E402
from experiment.seed_tables import STEP  # noqa: E402

ALGOS = ["omd", "mle", "vep"]
WIDTHS = [1, 2, 3, 4, 6, 12]
DISTRACTORS = [16, 32, 64, 128, 256, 512]
CHECKPOINT_EPOCHS = 10  # epochs between checkpoints: one takes a quarter of the time of an epoch


def main(argv: list[str]) -> None:
    """Does what the command line asks for; exit status 1 if a point failed."""
    options = parse(argv)
    folders = {point: (options.out / point.name).resolve() for point in grid(options)}
    failed = False
    if not options.report_only:
        for number, (point, folder) in enumerate(folders.items(), start=1):
            print(f"[{number}/{len(folders)}] {describe(point)}: ", end="", flush=True)
            problem = run(point, folder, options)
            print(problem or outcome(folder), flush=True)
            failed |= bool(problem)
    report(folders, options)
    if failed:
        raise SystemExit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=omd_study.PUBLISHED_STEPS, help="per seed; default 200,000")
    add("--seeds", type=int, default=10, help="per point, trained together; default 10")
    add("--algos", type=listed(str), default=ALGOS, help="default omd,mle,vep")
    add("--widths", type=listed(int), default=WIDTHS, help="of the model; default 1,2,3,4,6,12")
    add("--distractors", type=listed(int), default=DISTRACTORS, help="default 16,32,...,512")
    add("--out", type=Path, default=Path("runs/omd_study"), help="default runs/omd_study")
    add("--report-only", action="store_true", help="train nothing")
    add("--copy-to", type=Path, metavar="DIR", help="copies tables, report and figures there")
    return parser.parse_args(argv)


def listed(convert: Callable) -> Callable[[str], list]:
    """Returns a parser of comma-separated values; no text is no values."""
    return lambda text: [convert(part) for part in text.split(",") if part]


def grid(options: argparse.Namespace) -> list[Point]:
    """Returns the points: model widths, then distractors, each with all algorithms."""
    settings = [(width, 0) for width in options.widths]
    settings += [(DEFAULT_WIDTH, count) for count in options.distractors]
    return [Point(algo, *setting) for setting in settings for algo in options.algos]


def describe(point: Point) -> str:
    """Returns `omd, model width 2`."""
    if point.distractors:
        return f"{point.algo}, {point.distractors} distractors"
    return f"{point.algo}, model width {point.width}"


def run(point: Point, folder: Path, options: argparse.Namespace) -> str:
    """Runs train.py on a point that has not ended; returns what went wrong, "" if nothing did."""
    if has_ended(folder, options):
        return ""
    noise = f"+noise{point.distractors}" if point.distractors else ""
    command = [
        str(ROOT / "train.py"),
        f"--config=configs/omd_cartpole.py:CartPole-v1{noise}",
        f"--config.algo={point.algo}",
        f"--config.model.hidden_width={point.width}",
        f"--config.total_steps={options.steps}",
        f"--config.num_seeds={options.seeds}",
        f"--config.checkpoint.every_epochs={CHECKPOINT_EPOCHS}",
        f"--workdir={folder}",
    ]
    problem = logged(command, folder)
    return "" if has_ended(folder, options) else problem


def has_ended(folder: Path, options: argparse.Namespace) -> bool:
    """Whether a run is as far as it gets: all seeds are at the last step, or one has diverged.

    One that diverged in its first epoch has nothing to be read, and counts as failed.
    """
    if is_finished(folder, options.steps, options.seeds):
        return True
    frames = metrics.read(folder).values()
    usable = [len(frame) > 1 and frame[STEP].iloc[-1] <= options.steps for frame in frames]
    return usable == [True] * options.seeds and metrics.diverged(folder)


def outcome(folder: Path) -> str:
    """Returns what a run that has ended cost."""
    frames = metrics.read(folder).values()
    steps = sum(frame[STEP].iloc[-1] for frame in frames)
    seconds = max(frame[omd_study.CLOCK].iloc[-1] for frame in frames)
    pace = f"{steps / seconds:,.0f} environment steps per second"
    text = f"{steps:,} environment steps of {len(frames)} seeds in {duration(seconds)}, {pace}"
    return text + (", then a seed diverged" if metrics.diverged(folder) else "")


def report(folders: dict[Point, Path], options: argparse.Namespace) -> None:
    """Writes tables, figures and report on the points that have ended."""
    ended = [(point, folder) for point, folder in folders.items() if has_ended(folder, options)]
    if not ended:
        raise UserError(
            f"no point of the study has ended in {options.out} with {options.steps:,} steps and "
            f"{options.seeds} seeds: pass --out, --steps and --seeds as when it was run."
        )
    omd_study.write(omd_study.collect(ended), options.out)
    omd_study_report.write_report(options.out)
    print(f"Report on {len(ended)} of {len(folders)} points: {options.out / 'report.md'}")
    if options.copy_to:
        copy(omd_study_report.FILES, options.out, options.copy_to)


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
