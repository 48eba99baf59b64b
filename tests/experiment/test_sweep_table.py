import io
import math
import re
from pathlib import Path

import pytest

from experiment import sweep_table
from experiment.sweep_plan import Trial
from experiment.sweep_progress import DONE, FAILED, RUNNING, Status
from experiment.sweep_table import SweepTable


def status(label, seed, **figures):
    folder = Path("s", label, f"seed_{seed}")
    return Status(Trial(label, range(seed, seed + 1), folder, 1000, ()), **figures)


@pytest.fixture
def statuses():
    return [
        status("algo=mbpo", 0, state=DONE, attempts=1, host="n1", step=1000, last_return=12.34),
        status("algo=mbpo", 1, state=RUNNING, attempts=2, host="n1", step=500, seconds=61.0),
        status("algo=sac", 0, state=FAILED, attempts=1, host="n2", step=300, last_return=-5.0),
        status("algo=sac", 1),
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(statuses, lines, monkeypatch):
    """Returns the cells of the last frame in a terminal with so many lines, and the line below."""
    terminal = Terminal()
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": str(lines)}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        with SweepTable(statuses):
            pass
    frame = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue()).rpartition("┏")[2].splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in frame if "│" in line]
    return rows, frame[-1]


def test_a_terminal_shows_a_row_per_trial_and_the_total(statuses, monkeypatch):
    rows, total = shown(statuses, 9, monkeypatch)
    assert rows == [
        ["algo=mbpo", "0", "done", "n1", "1,000 of 1,000", "12.3", ""],
        ["algo=mbpo", "1", "retry 1", "n1", "500 of 1,000", "", "0:01:01"],
        ["algo=sac", "0", "failed", "n2", "300 of 1,000", "-5.0", ""],
        ["algo=sac", "1", "waiting", "", "0 of 1,000", "", ""],
    ]
    assert total.startswith("1 of 4 trials done, 1 failed | ")


def test_more_trials_than_lines_are_summed_up_per_grid_point(statuses, monkeypatch):
    rows, _ = shown(statuses, 8, monkeypatch)
    assert rows == [
        ["algo=mbpo", "1 running, 1 done", "750 of 1,000", "12.3"],
        ["algo=sac", "1 waiting, 1 failed", "150 of 1,000", "-5.0"],
    ]


def test_without_a_terminal_each_change_of_state_is_one_line(statuses, capsys):
    with SweepTable(statuses) as table:
        table.refresh()
        assert capsys.readouterr().out == ""
        statuses[3].state, statuses[3].attempts, statuses[3].host = RUNNING, 1, "n3"
        table.refresh()
        first = capsys.readouterr().out
        table.refresh()
        statuses[3].attempts, statuses[1].state = 2, DONE
        statuses[1].last_return = 3.25
        table.refresh()
        later = capsys.readouterr().out.splitlines()
    assert first.count("\n") == 1
    assert " | algo=sac/seed_1: running | on n3 | 1 of 4 trials done, 1 failed | " in first
    assert [line.split(" | ")[1:3] for line in later] == [
        ["algo=mbpo/seed_1: done", "return 3.2"],
        ["algo=sac/seed_1: retry 1", "on n3"],
    ]


def test_time_left_extrapolates_what_this_call_has_done(statuses, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sweep_table.time, "monotonic", lambda: now[0])
    table = SweepTable(statuses)  # (1 + 0.5 + 1 + 0) / 4 done
    assert "0:00:00 so far, ? left" in table._total()
    now[0] += 60.0
    statuses[3].step = 500
    # an eighth of all in a minute, two more to go
    assert "0:01:00 so far, 0:02:00 left" in table._total()
    for each in statuses:
        each.state = DONE
    assert table._total() == "4 of 4 trials done | took 0:01:00"


def test_seeds_that_train_together_are_shown_as_a_range():
    trial = Trial("x", range(4, 7), Path("x/seed_4"), 10, ())
    assert sweep_table._seeds(Status(trial)) == "4 to 6"
    assert sweep_table._number(math.nan) == ""
