import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import comparison_figures, comparison_report
from errors import UserError

ROOT = Path(__file__).parents[2]
FIGURES = ("curves.png", "scores.png", "time.png")
FILES = ("curves", "returns", "scores", "summary", "improvement", "time")
FILES = (*FILES, "published", "published_curves")
SHARES = (0.9, 0.95, 1.0, 1.05, 1.1)  # of the return at the top, by seed

pytestmark = pytest.mark.usefixtures("_few_resamples")


def make_study(make_run):
    """Two algorithms on two environments, of which one has published values nearby."""
    for env in ("Hopper-v5", "HalfCheetah-v5"):
        for algo, top in (("mbpo", 3000.0), ("sac", 800.0)):
            # The last five of ten points from 0 to `top` have the mean 7 / 9 of it.
            returns = {k: list(np.linspace(0, top * share, 10)) for k, share in enumerate(SHARES)}
            columns = {"time/policy": 20.0}
            make_run(
                f"runs/{algo}-{env}", returns, env=env, every=10_000, algo=algo, columns=columns
            )


def test_figures_are_drawn_again_from_the_csv_files_alone(make_run, tmp_path):
    make_study(make_run)
    out = tmp_path / "out"
    comparison_report.write_report([tmp_path / "runs"], out, "python report.py runs")
    images = {name: (out / name).read_bytes() for name in FIGURES}
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*FIGURES, *(f"{name}.csv" for name in FILES), "report.md"]
    )
    shutil.rmtree(tmp_path / "runs")
    moved = shutil.move(out, tmp_path / "moved")
    for name in (*FIGURES, "report.md"):
        (moved / name).unlink()
    comparison_figures.draw(moved)
    assert {name: (moved / name).read_bytes() for name in FIGURES} == images


def test_the_report_begins_with_findings_and_ends_with_its_commands(make_run, tmp_path):
    make_study(make_run)
    out = tmp_path / "out"
    printed = comparison_report.write_report([tmp_path / "runs"], out, "python report.py a b")
    text = (out / "report.md").read_text()
    assert text.startswith(
        "# Comparison\n\n**HalfCheetah-v5**: after 100,000 environment steps per seed, **mbpo** "
        "has the highest final return, **2,333** ("
    )
    assert printed.startswith("**HalfCheetah-v5**: after 100,000")
    assert text.index("**Hopper-v5**") < text.index("](curves.png)") < text.index("## Hopper-v5")
    assert "Bands: 95 % interval over seeds (percentile bootstrap, expanded" in text
    assert "steps to 1,900 |" in text  # 0.8 of the way from 0 to 2333 is 1867
    assert (
        "- **Published on HalfCheetah-v3 (DI-engine documentation, page mbpo, plots), these "
        in text
    )
    assert "| HalfCheetah-v5 | [1] | mbpo | 100,000 | 10,067 ± 577 (std) | 3 | DI-engine" in text
    assert "- Hopper-v5, published, -v2: MBPO (2019), a band: github.com/4kubo/erl_lib" in text
    assert "SAC (erl_lib" not in text  # of another version of the environments
    assert "## Notes" not in text
    assert text.endswith(f"```\npython report.py a b\npython report.py --redraw {out}\n```\n")
    assert "nan" not in text


def test_broken_folders_are_notes_and_the_rest_is_reported(make_run, tmp_path):
    good = make_run("runs/good", {0: [1.0, 2.0], 1: [2.0, 3.0]})
    stopped = make_run("runs/stopped", {0: [5.0, 5.0]}, algo="sac", total_steps=9000)
    broken = make_run("runs/broken", {0: [1.0]})
    (broken / "config.json").write_text("{")
    paths = [tmp_path / "runs", tmp_path / "typo"]
    printed = comparison_report.write_report(paths, tmp_path / "out", "x")
    text = (tmp_path / "out" / "report.md").read_text()
    notes = text.partition("## Notes\n\n")[2].partition("\n\n## ")[0].splitlines()
    assert [note.partition(":")[0] for note in notes] == [
        f"- {broken}",
        f"- {stopped}",
        f"- {tmp_path / 'typo'}",
    ]
    assert all(note[2:] in printed for note in notes)
    assert str(good) not in printed
    assert "**sac** has the highest final return, **5**: 3 more than mbpo, 2 [1.5 to 2.5]" in text
    assert "Bands: range of the seeds where there are fewer than 5." in text


def test_a_single_run_of_a_single_seed_makes_a_report(make_run, tmp_path):
    make_run("a", {0: [7.0]}, env="Pendulum-v1")
    comparison_report.write_report([tmp_path / "a"], tmp_path / "out", "x", threshold=5.0)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "One seed has no band." in text
    assert "| mbpo | 1 | 7 | 7 | 7 | 1,000 (1 of 1) | 0:01:00 |" in text
    assert "Steps to a return of 5: the median" in text
    assert "nan" not in text


def test_a_report_that_cannot_be_written_is_a_user_error(make_run, tmp_path):
    make_run("a", {0: [7.0]})
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", Path("/proc/out")):
        with pytest.raises(UserError, match="The comparison could not be written to"):
            comparison_report.write_report([tmp_path / "a"], out, "x")


def command(*arguments, folder):
    return subprocess.run(
        [sys.executable, ROOT / "report.py", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_reports_draws_again_and_says_where(make_run, tmp_path):
    make_run("a", {0: [1.0, 2.0]})
    done = command("a", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "**Hopper-v5**: after 2,000 environment steps per seed" in done.stdout
    report = tmp_path / done.stdout.split("Report: ")[1].strip()
    assert report.parent.parent == tmp_path / "reports"
    assert "```\npython report.py a\n" in report.read_text()
    (report.parent / "curves.png").unlink()
    assert command("--redraw", report.parent, folder=tmp_path).returncode == 0
    assert (report.parent / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one run folder"),
        (["nowhere"], "nowhere: no run folder is here or below"),
        (["a", "--group-by", "alog"], "--group-by=alog: no run has this field. Did you mean algo?"),
        (["--redraw", "a"], "curves.csv is missing"),
        (["a", "--threshold", "nan"], "nan is no return: give a number such as 900"),
    ],
)
def test_mistakes_are_messages_with_exit_status_2(make_run, tmp_path, arguments, message):
    make_run("a", {0: [1.0]})
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_neither_help_nor_a_report_waits_for_jax(tmp_path):
    code = (
        "import sys, report\n"
        "from analysis import comparison_report, leaderboard\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
