"""Settings of JAX that have to be made before anything is compiled."""

import os
from pathlib import Path

import jax


def configure(num_seeds: int, *, long_programs: bool = False) -> None:
    """Prepares JAX for a run; has to be called before the first computation.

    Exposes CPU devices, so that seeds train beside each other, and keeps compiled programs in the
    user's cache folder, so that the next run starts at once. Whatever the user set through JAX's
    own environment variables is respected.

    Args:
      num_seeds: seeds trained together.
      long_programs: seeds may run one after the other, because a program does many steps of each.
    """
    if num_seeds > 1 and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        # Ignored on accelerators: it counts the devices of the CPU backend only.
        jax.config.update("jax_num_cpu_devices", num_devices(num_seeds, cores, long_programs))
    settings = {
        "jax_compilation_cache_dir": str(compilation_cache()),
        # JAX skips programs that compile within a second; a run has dozens of those.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def num_devices(num_seeds: int, cores: int, long_programs: bool) -> int:
    """Returns how many CPU devices share the seeds: one each, or the fewest that use all cores."""
    if not long_programs:
        return num_seeds
    shares = (n for n in range(min(cores, num_seeds), num_seeds + 1) if num_seeds % n == 0)
    return next(shares)


def compilation_cache() -> Path:
    """Returns the folder of compiled programs under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omd" / "compiled"
