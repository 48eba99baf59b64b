"""Programs of a study: each has a core to itself."""

import os
import subprocess
import sys
import threading

import pytest

from benchmarks.running import on_own_cores

AFFINITY = "import os; print(*os.sched_getaffinity(0))"


def test_what_a_task_starts_has_one_core_and_all_cores_are_used():
    cores = os.sched_getaffinity(0)
    all_have_begun = threading.Barrier(len(cores), timeout=60.0)

    def task():
        all_have_begun.wait()
        return subprocess.run([sys.executable, "-c", AFFINITY], capture_output=True).stdout

    found = on_own_cores([task] * len(cores))
    assert sorted(map(int, found)) == sorted(cores)
    assert os.sched_getaffinity(0) == cores


def test_results_are_in_the_order_of_the_tasks():
    assert on_own_cores([lambda k=k: str(k) for k in range(7)]) == list("0123456")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one after the other")
def test_after_an_error_nothing_new_is_begun():
    begun, later = [], threading.Event()

    def broken():
        raise OSError("disk full")

    def busy():
        later.wait(60.0)
        return ""

    threading.Timer(2.0, later.set).start()
    cores = len(os.sched_getaffinity(0))
    tasks = [busy, broken, *[busy] * cores, lambda: begun.append(1) or ""]
    with pytest.raises(OSError, match="disk full"):
        on_own_cores(tasks)
    assert not begun
