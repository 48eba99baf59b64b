"""Settings of JAX that have to be made before anything is compiled."""

import contextlib
import os
from pathlib import Path

import jax


def configure(num_seeds: int) -> None:
    """Prepares JAX for a run; has to be called before the first computation.

    Exposes one CPU device per seed, so that seeds train beside each other, and keeps compiled
    programs in the user's cache folder, so that the next run starts at once. Whatever the user set
    through JAX's own environment variables is respected.

    Args:
      num_seeds: seeds trained together.
    """
    _set_num_devices(num_seeds)
    settings = {
        "jax_compilation_cache_dir": str(compilation_cache()),
        # JAX skips programs that compile within a second; a run has dozens of those.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def expect_long_programs(num_seeds: int) -> None:
    """Exposes only as many CPU devices as cores need, where a program does many steps of a seed.

    Seeds on one device then run one after the other, which costs nothing, and threads do not wait
    for each other. Does nothing once JAX has computed something, which only costs speed.
    """
    with contextlib.suppress(RuntimeError):
        _set_num_devices(fewest_devices(num_seeds, len(os.sched_getaffinity(0))))


def fewest_devices(num_seeds: int, cores: int) -> int:
    """Returns the fewest devices that share the seeds equally and use all cores."""
    first = min(cores, num_seeds)
    return next(n for n in range(first, num_seeds + 1) if num_seeds % n == 0)


def _set_num_devices(count: int) -> None:
    # Ignored on accelerators: it counts the devices of the CPU backend only.
    if count > 1 and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", count)


def compilation_cache() -> Path:
    """Returns the folder of compiled programs under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omd" / "compiled"
