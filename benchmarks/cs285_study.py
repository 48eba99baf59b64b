"""CS285's homework 4 in one command: all its questions, each a run of train.py.

    python benchmarks/cs285_study.py
    python benchmarks/cs285_study.py --full              the homework's own sizes: hours
    python benchmarks/cs285_study.py --questions=1,2     a part
    python benchmarks/cs285_study.py --report-only --copy-to=results/cs285

Every run has a core to itself, as many are under way as there are cores: that is faster than one
after the other on all of them. The same command continues: what is finished is skipped, what was
interrupted resumes. What there is less of without --full, the report says. Figures, tables and
`report.md` are in --out.
"""

import argparse
import functools
import shlex
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis import cs285_study, cs285_study_report  # noqa: E402
from analysis.cs285_study import CLOCK, Point  # noqa: E402
from benchmarks.running import copy, is_finished, logged, on_own_cores  # noqa: E402
from errors import UserError  # noqa: E402
from experiment import command_line  # noqa: E402
from experiment.files import disk_problems_as_user_errors  # noqa: E402
from experiment.progress import duration  # noqa: E402

QUESTIONS = [1, 2, 3, 4, 5, 6]
ONE_WRITER = threading.Lock()  # of the table of times


def main(argv: list[str]) -> None:
    """Does what the command line asks for; exit status 1 if a run failed."""
    options = parse(argv)
    points = cs285_study.points(options.full)
    runs = [(point, options.out / point.name) for point in points]
    problems: list[str] = []
    if not options.report_only:
        asked = {
            name
            for panel in cs285_study.PANELS
            if panel.question in options.questions
            for name in panel.runs
        }
        tasks = [
            functools.partial(run, point, folder.resolve(), options)
            for point, folder in reversed(runs)  # the short ones last
            if point.name in asked
        ]
        if 1 in options.questions:
            tasks.append(functools.partial(model_fits, options.out))
        problems = on_own_cores(tasks)
    report(runs, options)
    if any(problems):
        raise SystemExit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--questions", type=questions, default=QUESTIONS, help="default 1,2,3,4,5,6")
    add("--full", action="store_true", help="the homework's own sizes")
    add("--seeds", type=int, default=1, help="per run, trained together; default 1")
    add("--out", type=Path, help="default runs/cs285_study, or runs/cs285_study_full")
    add("--report-only", action="store_true", help="train nothing")
    add("--copy-to", type=Path, metavar="DIR", help="copies tables, report and figures there")
    options = parser.parse_args(argv)
    if options.out is None:
        options.out = Path("runs/cs285_study_full" if options.full else "runs/cs285_study")
    return options


def questions(text: str) -> list[int]:
    """Returns the numbers of `1,2`."""
    found = [int(part) for part in text.split(",")]
    if unknown := set(found) - set(QUESTIONS):
        raise argparse.ArgumentTypeError(f"there is no question {min(unknown)}, only 1 to 6")
    return found


def model_fits(out: Path) -> str:
    """Does what is missing of question 1; returns what went wrong, "" if nothing did."""
    folder = out / cs285_study_report.FITS_FOLDER
    problem = ""
    if not cs285_study_report.has_all_fits(folder):
        script = Path(__file__).with_name("cs285_model_fits.py")
        problem = timed([str(script), f"--out={folder.resolve()}"], folder)
    print(f"{folder.name}: {problem or 'done'}", flush=True)
    return problem


def run(point: Point, folder: Path, options: argparse.Namespace) -> str:
    """Runs train.py on a point that is not finished; returns what went wrong, "" if nothing did."""
    problem = ""
    if not is_finished(folder, point.total_steps, options.seeds, point.flags):
        command = [
            str(ROOT / "train.py"),
            f"--config=configs/{point.config}",
            *(f"--config.{name}={value}" for name, value in point.flags.items()),
            f"--config.total_steps={point.total_steps}",
            f"--config.num_seeds={options.seeds}",
            f"--workdir={folder}",
        ]
        problem = timed(command, folder)
    print(f"{point.name}: {problem or outcome(point, folder)}", flush=True)
    return problem


def timed(command: list[str], folder: Path) -> str:
    """Does what `logged` does, and adds how long it took to the table beside the folder."""
    start = time.time()
    try:
        return logged(command, folder)
    finally:
        note_time(folder, start, time.time())


def note_time(folder: Path, start: float, end: float) -> None:
    """Adds a row to the table of times beside a folder, in seconds since 1970."""
    path = folder.parent / cs285_study_report.TIMES_FILE
    with (
        ONE_WRITER,
        disk_problems_as_user_errors(path.parent, "The table of times"),
        open(path, "a") as table,
    ):
        if not table.tell():
            table.write("part,start,end\n")
        table.write(f"{folder.name},{start:.1f},{end:.1f}\n")


def outcome(point: Point, folder: Path) -> str:
    """Returns how long a finished run took, and its last return."""
    table = cs285_study.collect([(point, folder)])
    last = cs285_study.by_iteration(table, point.name).iloc[-1]
    return f"{duration(table[CLOCK].max())}, last return {last:,.1f}"


def report(runs: list[tuple[Point, Path]], options: argparse.Namespace) -> None:
    """Writes tables, figures and report on the runs that are finished."""
    finished = [
        (point, folder)
        for point, folder in runs
        if is_finished(folder, point.total_steps, options.seeds, point.flags)
    ]
    fits = options.out / cs285_study_report.FITS_FOLDER / cs285_study_report.FITS_FILE
    if not finished and not fits.exists():
        raise UserError(
            f"nothing is finished in {options.out}: pass --out, --full and --seeds as when it was "
            "run."
        )
    cs285_study.write(cs285_study.collect(finished), options.out)
    again = ["python", "benchmarks/cs285_study.py", f"--seeds={options.seeds}"]
    again += ["--full"] if options.full else []
    if options.questions != QUESTIONS:
        again.append(f"--questions={','.join(map(str, options.questions))}")
    sizes = "The sizes are the homework's." if options.full else cs285_study.REDUCTIONS
    cs285_study_report.write_report(options.out, sizes, shlex.join(again))
    print(f"Report on {len(finished)} of {len(runs)} runs: {options.out / 'report.md'}")
    if options.copy_to:
        copy(cs285_study_report.FILES, options.out, options.copy_to)


if __name__ == "__main__":
    with command_line.user_errors():
        main(sys.argv[1:])
