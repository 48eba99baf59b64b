from experiment import stopwatch


def test_stopwatch_adds_up_and_forgets(monkeypatch):
    ticks = iter([0.0, 1.0, 5.0, 7.5, 8.0, 8.25])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    watch = stopwatch.Stopwatch()
    for stage in ("model", "policy", "model"):
        with watch(stage):
            pass
    assert watch.lap() == {"model": 1.25, "policy": 2.5}
    assert watch.lap() == {}
