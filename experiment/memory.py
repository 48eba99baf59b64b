"""How much memory a run takes, told before it is allocated."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import psutil

from errors import UserError
from experiment.files import readable_bytes

HEADROOM = 1.25  # the state plus activations, temporaries and the simulator; measured on Hopper


def check(state_shape: Any, num_seeds: int) -> str:
    """Returns one line saying what the agent state takes, part by part.

    Args:
      state_shape: the state as ShapeDtypeStructs with a leading seed axis: a dataclass, whose
        fields are the parts.
      num_seeds: length of that axis.

    Raises:
      UserError: the device does not have that much memory left.
    """
    parts = {
        field.name: _bytes(getattr(state_shape, field.name))
        for field in dataclasses.fields(state_shape)
    }
    total = sum(parts.values())
    large = {name: size for name, size in parts.items() if size > 0.01 * total}
    split = ", ".join(f"{name} {readable_bytes(size // num_seeds)}" for name, size in large.items())
    line = f"Memory: {readable_bytes(total)} for {num_seeds} seed(s); each: {split}"
    available = _available_bytes()
    if HEADROOM * total > available:
        raise UserError(
            f"{line}, with working space more than the {readable_bytes(available)} available. Use "
            "fewer seeds at once (--config.num_seeds), a smaller --config.replay_capacity, or, for "
            "model transitions, a smaller --config.rollout.starts or --config.rollout.retain_steps."
        )
    return f"{line}."


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _available_bytes() -> int:
    """Free memory of the accelerators together, or of the machine when training on CPU."""
    if jax.default_backend() == "cpu":
        limit = Path("/sys/fs/cgroup/memory.max")  # of a container; the machine may have more
        used = Path("/sys/fs/cgroup/memory.current")
        available = psutil.virtual_memory().available
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            available = min(available, int(text) - int(used.read_text()))
        return available
    stats = [device.memory_stats() or {} for device in jax.devices()]
    return sum(s.get("bytes_limit", 2**63) - s.get("bytes_in_use", 0) for s in stats)
