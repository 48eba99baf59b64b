"""The folder of a run: created or resumed, described in `config.json`, used by one process only."""

import datetime
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, TextIO

from errors import UserError
from experiment.files import disk_problems_as_user_errors, write_text_atomically
from experiment.former_fields import with_present_names

CONFIG_FILE = "config.json"
REPORT_FILE = "report.md"
LOCK_FILE = ".lock"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnasium", "mujoco")
_ABSENT = "(absent)"
NO_RESULT = ("logging.", "checkpoint.")  # blocks that do not change what a run computes
_locks: dict[Path, TextIO] = {}  # by resolved run folder, open for as long as this process uses it


def open_run(workdir: Path, config: dict[str, Any], environment: dict[str, Any]) -> bool:
    """Creates a run folder, or checks that the run in it is the one described by `config`.

    The folder stays locked against other processes until this one ends or calls `close_run`.

    Args:
      workdir: the run folder.
      config: the full resolved configuration, values that JSON can hold.
      environment: from `describe_environment`.

    Returns:
      Whether the folder already holds this run.

    Raises:
      UserError: another process uses the folder, it belongs to a run with another configuration, or
        it is not writable.
    """
    workdir = Path(workdir)
    config = json.loads(json.dumps(config))
    with disk_problems_as_user_errors(workdir, "The run folder"):
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir)
        path = workdir / CONFIG_FILE
        if not path.exists():
            _write_config(path, config, {**environment, "env": config.get("env")})
            return False
        stored = read_config(workdir)
        _check_same_config(workdir, stored["config"], config)
    return True


def close_run(workdir: Path) -> None:
    """Lets other processes use the run folder again."""
    lock = _locks.pop(Path(workdir).resolve(), None)
    if lock is not None:
        lock.close()


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns `{"config": ..., "environment": ...}` of a run folder, with present names of fields.

    Raises:
      UserError: the folder has no readable `config.json`.
    """
    path = Path(workdir) / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
        config, environment = content["config"], content["environment"]
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is not a run folder: it has no {CONFIG_FILE}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a backup, or pass another --workdir."
        ) from error
    return {"config": with_present_names(config), "environment": environment}


def another_version(environment: dict[str, Any]) -> str:
    """Names the code that wrote a run: `another version (commit abc1234, jax 0.10.2)`.

    Args:
      environment: from `read_config`.
    """
    known = flatten(environment)
    commit, jax = (known.get(name) or "unknown" for name in ("git.commit", "versions.jax"))
    return f"another version (commit {commit[:7]}, jax {jax})"


def describe_environment() -> dict[str, Any]:
    """Returns what besides the configuration may influence a run: versions, code and hardware."""
    import jax  # here, because whoever only reads run folders should not wait for it

    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "git": _git_state(Path(__file__).resolve().parent),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),  # that this run may use
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        },
    }


def _write_config(path: Path, config: dict[str, Any], environment: dict[str, Any]) -> None:
    content = {"config": config, "environment": environment}
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")


def _lock(workdir: Path) -> None:
    path = workdir / LOCK_FILE
    held = _locks.get(workdir.resolve())
    # The folder may have been removed and made anew since this process locked it.
    if (
        held is not None
        and path.exists()
        and os.path.samestat(os.fstat(held.fileno()), path.stat())
    ):
        return
    file = open(path, "a+")  # noqa: SIM115 - closing it would release the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"{workdir} is in use by another process (id {owner}). "
            "Wait for it, stop it, or pass another --workdir."
        ) from error
    close_run(workdir)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _locks[workdir.resolve()] = file


def _check_same_config(workdir: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    old, new = flatten(stored), flatten(given)
    names = [
        name
        for name in sorted(old | new)
        if old.get(name, _ABSENT) != new.get(name, _ABSENT) and not name.startswith(NO_RESULT)
    ]
    if not names:
        return
    lines = [
        f"  {n}: in {workdir} {_show(old.get(n, _ABSENT))}, given {_show(new.get(n, _ABSENT))}"
        for n in names
    ]
    raise UserError(
        f"{workdir} holds a run with another configuration:\n"
        + "\n".join(lines)
        + "\nPass another --workdir to start a new run, "
        + "or repeat the old values to resume this one."
    )


def _show(value: Any) -> str:
    return value if value is _ABSENT else json.dumps(value)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dictionaries as one, e.g. `{"model.num_members": 7}`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Returns the commit and whether tracked files differ from it; None outside a repository."""
    run = functools.partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=30)
    try:
        commit = run(["git", "rev-parse", "--verify", "HEAD"])
        status = run(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode or status.returncode:
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
