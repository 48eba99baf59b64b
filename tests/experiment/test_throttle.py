import pytest

from experiment import throttle


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(throttle, "time", fake)
    return fake


def test_calls_take_no_more_than_their_share_of_the_time(clock):
    calls = []

    def work():
        calls.append(clock.now)
        clock.now += 0.5

    throttled = throttle.Throttle(work)
    while clock.now < 1100.0:
        throttled()
        clock.now += 1.0
    assert calls[:2] == [100.0, 125.5]  # 0.5 s is 2 % of 25 s; tried every second from 101.5 on
    assert 0.9 * throttle.SHARE < 0.5 * len(calls) / 1000.0 <= throttle.SHARE


def test_work_that_takes_no_time_is_never_left_out(clock):
    calls = []
    throttled = throttle.Throttle(lambda: calls.append(clock.now))
    for _ in range(5):
        throttled()
    assert len(calls) == 5
