"""Ray for sweeps: a cluster of one's own or an existing one, and trials as tasks on it."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from errors import UserError
from experiment import sweep_trial
from experiment.sweep_plan import Trial

_OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB; only exit statuses go through it
_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 20.0
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Share(NamedTuple):
    """What a trial gets of the machine it runs on."""

    cpus: int
    gpus: float


@contextlib.contextmanager
def connection(address: str | None) -> Iterator[None]:
    """Is on a cluster inside a `with` block; one of our own ends with it.

    Args:
      address: None for a cluster of one's own, `auto` for the one that runs on this machine, or
        `host:port` of a cluster that this machine is part of.

    Raises:
      UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _import_ray()
    with _handlers_restored():
        _connect(ray, address)
        # Ray ends this process on SIGTERM, which batch systems send; the trials are to end first.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            ray.shutdown()


def machines() -> list[dict[str, float]]:
    """Returns the resources of each machine of the cluster, such as `{"CPU": 2.0}`."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share(
    machines: Sequence[dict[str, float]], cpus: int | None, gpus: float, seeds_per_trial: int
) -> Share:
    """Returns what each trial gets.

    Args:
      machines: of the cluster.
      cpus: CPU cores; None: on CPU one per seed as far as a machine has them, as train.py uses a
        device per seed, and one beside a GPU.
      gpus: GPUs, may be a fraction.
      seeds_per_trial: seeds that train together.

    Raises:
      UserError: no machine of the cluster has as much.
    """
    if gpus > 1 and gpus % 1:
        raise UserError(f"--gpus-per-trial={gpus:g}: use a whole number, or less than 1.")
    fitting = [machine.get("CPU", 0) for machine in machines if machine.get("GPU", 0) >= gpus]
    cores = int(max(fitting, default=0))
    if cpus is None:
        cpus = 1 if gpus else max(1, min(seeds_per_trial, cores))
    if cores >= cpus:
        return Share(cpus, gpus)
    found = [f"{m.get('CPU', 0):g} CPUs and {m.get('GPU', 0):g} GPUs" for m in machines]
    raise UserError(
        f"a trial needs --cpus-per-trial={cpus} and --gpus-per-trial={gpus:g}, but no machine has "
        f"as much (Ray would wait for one). The cluster has {len(machines)}: "
        f"{'; '.join(sorted(set(found)))}."
    )


def submit(trials: Sequence[Trial], share: Share, retries: int, sweep: str) -> dict[Any, Trial]:
    """Hands trials to Ray, which runs as many at once as fit; returns them by Ray's reference.

    Args:
      trials: what to run.
      share: what each of them gets.
      retries: how often a trial is started again after its worker or train.py was killed.
      sweep: identifies this call of sweep.py.
    """
    import ray

    task = ray.remote(sweep_trial.run).options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_retries=retries,
        retry_exceptions=[sweep_trial.KilledError],
    )
    environment = sweep_trial.variables(*share)
    directory = Path.cwd()
    return {
        task.remote(t.arguments, directory / t.folder, directory, environment, sweep): t
        for t in trials
    }


def wait(running: dict[Any, Trial], seconds: float) -> list[Any]:
    """Returns the references of trials that have ended, at the latest after so many seconds."""
    import ray

    ended, _ = ray.wait(list(running), num_returns=len(running), timeout=seconds)
    return ended


def problem(reference: Any) -> str:
    """Returns why a trial that has ended failed, nothing if it did not."""
    import ray

    try:
        status = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            return str(error.cause)
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError as error:
        return str(error).partition("\n")[0]
    return f"exit status {status}" if status else ""


def stop(running: dict[Any, Trial]) -> None:
    """Ends trials at once; their last checkpoints stay.

    Returns when their processes are gone, and names one that stays. From here to the end of the
    `connection`, Ctrl-C and SIGTERM do nothing.
    """
    import ray

    for number in _ENDING:  # an impatient second Ctrl-C would leave some
        signal.signal(number, signal.SIG_IGN)
    print("Stopping the trials.", file=sys.stderr, flush=True)
    for reference in running:
        ray.cancel(reference, force=True)
    wait(running, _STOP_SECONDS)
    for trial in running.values():
        try:
            sweep_trial.wait_until_free(trial.folder)
        except UserError as error:
            print(error, file=sys.stderr)


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise UserError("sweeps run on Ray, which is not installed: pip install ray") from error
    return ray


def _connect(ray: ModuleType, address: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and warn of a later default
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(
            "local",
            num_cpus=len(os.sched_getaffinity(0)),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return
    try:
        if address != "auto":
            _knock(address)
        ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"--ray-address={address}: no connection to a Ray cluster ({error}). Start one with "
            "`ray start --head --port=6379` on one machine and `ray start --address=<host>:6379` "
            "on the others and here, with the same RAY_AUTH_MODE everywhere (docs/sweeps.md), or "
            "leave out --ray-address to use this machine alone."
        ) from error


def _knock(address: str) -> None:
    """Raises an OSError or ValueError unless something listens there; Ray tries for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
