import fcntl
import signal
import socket
import sys
import types
from pathlib import Path

import pytest

from errors import UserError
from experiment import sweep_cluster, sweep_trial
from experiment.sweep_cluster import Share, share
from experiment.sweep_plan import Trial
from experiment.sweep_trial import variables

GPU_MACHINE, SMALL = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "seeds", "expected"),
    [
        ([SMALL], None, 0.0, 1, Share(1, 0.0)),
        ([SMALL], None, 0.0, 5, Share(2, 0.0)),
        ([SMALL, GPU_MACHINE], None, 0.0, 5, Share(5, 0.0)),
        ([SMALL, GPU_MACHINE], None, 1.0, 5, Share(1, 1.0)),
        ([SMALL, GPU_MACHINE], 8, 0.25, 5, Share(8, 0.25)),
        ([SMALL], 2, 0.0, 1, Share(2, 0.0)),
    ],
)
def test_a_trial_gets_a_core_per_seed_unless_told_otherwise(machines, cpus, gpus, seeds, expected):
    assert share(machines, cpus, gpus, seeds) == expected


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "words"),
    [
        ([SMALL, SMALL], 3, 0.0, "--cpus-per-trial=3.*cluster has 2: 2 CPUs and 0 GPUs"),
        ([SMALL], None, 1.0, "--gpus-per-trial=1,"),
        ([SMALL, GPU_MACHINE], 2, 5.0, "--gpus-per-trial=5,"),
        ([{"CPU": 16.0}, {"CPU": 1.0, "GPU": 1.0}], 2, 1.0, "1 CPUs and 1 GPUs; 16 CPUs"),
        ([GPU_MACHINE], 1, 1.5, "whole number"),
    ],
)
def test_what_no_machine_has_is_refused_instead_of_waited_for(machines, cpus, gpus, words):
    with pytest.raises(UserError, match=words):
        share(machines, cpus, gpus, 1)


def test_a_trial_is_kept_to_its_share():
    threads = {"NPROC": "2", "PJRT_NPROC": "2", "OMP_NUM_THREADS": "2"}
    assert variables(2, 0.0) == threads | {"JAX_PLATFORMS": "cpu"}
    assert variables(2, 1.0) == threads
    assert variables(2, 0.25) == threads | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.225"}


def test_without_ray_its_installation_is_suggested(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"), sweep_cluster.connection(None):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        sweep_cluster._knock(f"127.0.0.1:{port}")
    for address, not_a_port in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1:port", "port")):
        with pytest.raises(ValueError, match=rf"invalid literal for int.*'{not_a_port}'"):
            sweep_cluster._knock(address)


class RayTaskError(Exception):
    """A stand-in for Ray's, which carries what the task raised."""

    def __init__(self, cause):
        super().__init__("a long remote traceback")
        self.cause = cause


def handle(number, frame):
    """What this process does about a signal before it meets Ray."""


def replace_handler(*args, **kwargs):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as ray.init replaces it


@pytest.fixture
def ray(monkeypatch):
    """Ray's functions without a cluster; its tasks are exceptions to raise or values to return."""

    def get(outcome):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    module = types.SimpleNamespace(
        init=replace_handler,
        shutdown=lambda: None,
        cancel=lambda reference, force: None,
        wait=lambda references, num_returns, timeout: (references, []),
        get=get,
        exceptions=types.SimpleNamespace(RayTaskError=RayTaskError, RayError=OSError),
    )
    monkeypatch.setitem(sys.modules, "ray", module)
    return module


@pytest.fixture
def handlers():
    """Sets handlers of SIGINT and SIGTERM for the test; returns a function that reads them."""
    before = [signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)]
    yield lambda: [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


def test_sigterm_is_an_interrupt_only_while_there_is_a_connection(ray, handlers):
    with sweep_cluster.connection(None):
        assert handlers() == [handle, signal.default_int_handler]
    assert handlers() == [handle, handle]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_signal_handlers_are_restored_after_an_error(ray, handlers, error):
    with pytest.raises(error), sweep_cluster.connection(None):
        raise error
    assert handlers() == [handle, handle]


def test_the_signal_handlers_are_restored_without_a_connection(ray, handlers):
    def fail(*args, **kwargs):
        replace_handler()
        raise RuntimeError("no cluster")

    ray.init = fail
    with pytest.raises(UserError, match="no cluster"), sweep_cluster.connection("auto"):
        pass
    assert handlers() == [handle, handle]


def test_the_signal_handlers_are_restored_when_the_cluster_cannot_be_ended(ray, handlers):
    def fail():
        raise RuntimeError("cannot end")

    ray.shutdown = fail
    with pytest.raises(RuntimeError, match="cannot end"), sweep_cluster.connection(None):
        pass
    assert handlers() == [handle, handle]


def test_while_trials_are_stopped_signals_do_nothing_until_the_connection_ends(ray, handlers):
    during = []
    ray.cancel = lambda reference, force: during.append((reference, force, handlers()))
    ray.shutdown = lambda: during.append(handlers())
    with sweep_cluster.connection(None):
        sweep_cluster.stop({"task": Trial("sac", range(1), Path("absent"), 1, ())})
    ignored = [signal.SIG_IGN, signal.SIG_IGN]
    assert during == [("task", True, ignored), ignored]
    assert handlers() == [handle, handle]


def test_a_process_that_stays_when_trials_are_stopped_is_named(
    ray, handlers, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sweep_trial, "_LOCKED_SECONDS", 0.1)
    (tmp_path / ".lock").write_text("4711")
    trials = [Trial("sac", range(1), tmp_path / name, 1, ()) for name in (".", "absent")]
    with open(tmp_path / ".lock") as held, sweep_cluster.connection(None):
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep_cluster.stop({"a": trials[0], "b": trials[1]})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Stopping the trials."
    assert len(lines) == 2
    assert "4711" in lines[1]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (0, ""),
        (2, "exit status 2"),
        (RayTaskError(UserError("stop process 4711")), "stop process 4711"),
        (RayTaskError(sweep_trial.KilledError("by SIGKILL")), "KilledError: by SIGKILL"),
        (OSError("node died\nmore"), "node died"),
    ],
)
def test_why_a_trial_failed_is_said_in_a_line(ray, outcome, words):
    assert sweep_cluster.problem(outcome) == words
