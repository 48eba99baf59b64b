import io
import time

import pytest

from experiment import progress
from experiment.progress import Progress, duration

ROW = {
    "eval/return": 123.44,
    "eval/return_std": 9.0,
    "model/holdout_mse": 0.01234,
    "rollout/length": 5.0,
}
SPLIT = {"time/environment": 1.0, "time/model": 2.0, "time/policy": 4.0, "time/evaluation": 1.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_each_epoch_is_one_plain_line(capsys):
    with Progress(3000, 0, "mbpo on Hopper-v5") as bar:
        for step in range(1, 1001):
            bar.advance(step)
        assert capsys.readouterr().out == ""
        bar.epoch(1, 1000, ROW, SPLIT)
        first = capsys.readouterr().out
        bar.epoch(2, 2000, {}, {}, return_std_over_seeds=2.0)
        second = capsys.readouterr().out
    assert capsys.readouterr().out == ""
    for text in (first, second):
        assert text.count("\n") == 1
        assert "\x1b" not in text
    assert first.startswith("epoch 1 | step 1000/3000 | ")
    assert "return 123.4 ± 9.0 | model error 0.0123 | rollout length 5" in first
    assert "policy 50%, model 25%, evaluation 12%, environment 12%" in first
    assert second.startswith("epoch 2 | step 2000/3000 | ")
    assert "return" not in second


def test_spread_over_seeds_replaces_the_one_over_episodes(capsys):
    with Progress(10, 0, "x") as bar:
        bar.epoch(1, 5, ROW, {}, return_std_over_seeds=2.25)
    assert "return 123.4 ± 2.2" in capsys.readouterr().out


def test_the_stages_of_a_refresh_are_told_apart(capsys):
    split = {"time/model": 3.0, "time/flows": 2.0, "time/rollouts": 1.0, "time/policy": 4.0}
    with Progress(10, 0, "x") as bar:
        bar.epoch(1, 5, {}, split)
    assert "policy 40%, model 30%, flows 20%, rollouts 10%" in capsys.readouterr().out


def test_speed_and_time_left_count_from_the_resumed_step(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(5000, 2000, "x") as bar:
        now[0] += 10.0
        bar.epoch(3, 3000, {}, {})
    line = capsys.readouterr().out
    assert line == "epoch 3 | step 3000/5000 | 100 steps/s | 0:00:20 left\n"


def test_the_speed_of_exploration_is_forgotten(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(5000, 0, "x") as bar:
        now[0] += 1.0
        bar.advance(2000)
        bar.learning_begins()
        now[0] += 10.0
        bar.epoch(1, 3000, {}, {})
    assert capsys.readouterr().out == "epoch 1 | step 3000/5000 | 100 steps/s | 0:00:20 left\n"


def test_a_terminal_shows_a_bar_with_the_figures(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(1000, 0, "mbpo on Hopper-v5") as bar:
        bar.advance(250)
        bar.epoch(1, 500, ROW, SPLIT)
    shown = terminal.getvalue()
    assert "mbpo on Hopper-v5" in shown
    assert "step 500/1000" in shown
    assert "return 123.4 ± 9.0" in shown
    assert "━" in shown


def test_advance_is_cheap():
    with Progress(10**6, 0, "x") as bar:
        start = time.perf_counter()
        for step in range(10_000):
            bar.advance(step)
        assert time.perf_counter() - start < 0.5  # 50 microseconds a step, far above what it takes


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3 * 3600 + 61, "3:01:01")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
