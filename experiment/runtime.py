"""Settings of JAX that have to be made before anything is compiled."""

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
    if num_seeds > 1 and "JAX_NUM_CPU_DEVICES" not in os.environ:
        # Ignored on accelerators: it counts the devices of the CPU backend only.
        jax.config.update("jax_num_cpu_devices", num_seeds)
    settings = {
        "jax_compilation_cache_dir": str(compilation_cache()),
        # JAX skips programs that compile within a second; a run has dozens of those.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def compilation_cache() -> Path:
    """Returns the folder of compiled programs under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omd" / "compiled"
