"""Settings every test needs before JAX starts its backend."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Workers of pytest-xdist and the subprocesses that tests start inherit the environment. Programs
# stay compiled from one test session to the next; the folder's name keeps users apart.
_CACHE = Path(tempfile.gettempdir()) / f"omd-test-programs-{os.getuid()}"
_CACHE.mkdir(mode=0o700, exist_ok=True)
assert _CACHE.stat().st_uid == os.getuid(), f"{_CACHE} belongs to someone else; set TMPDIR"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MUJOCO_GL", "egl")

import jax  # noqa: E402  JAX reads the variables above when it is imported
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

_REGIONS = Path("/proc/self/maps")  # Linux ends a process that maps more than 65,530


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    """Forgets compiled programs before their regions of memory run out."""
    yield
    if _REGIONS.exists() and len(_REGIONS.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()
