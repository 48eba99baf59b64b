"""Numbers, counts, lists and hardware as a reader expects them in a sentence or a table."""

import math
from collections.abc import Sequence
from typing import Any

from experiment.progress import duration

UNKNOWN = "\N{EN DASH}"
LARGEST_IN_FULL = 1e9  # returns beyond it have exploded, and only their size matters


def number(value: float) -> str:
    """Returns e.g. `1,234`, `56.7` or `0.123`, and `–` for what is not finite."""
    if not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= LARGEST_IN_FULL:
        return f"{value:.3g}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def counted(count: float, thing: str) -> str:
    """Returns `1 seed`, `5 seeds`, `20,000 steps`."""
    return f"{count:,.0f} {thing}" + "s" * bool(count != 1)


def joined(names: Sequence[str]) -> str:
    """Returns `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def time_taken(seconds: float) -> str:
    """Returns a length of time as `h:mm:ss`, `–` if it is unknown."""
    return duration(seconds) if math.isfinite(seconds) else UNKNOWN


def hardware(found: dict[str, Any]) -> str:
    """Returns e.g. `AMD EPYC, 2 cores, cpu: cpu`.

    Args:
      found: the hardware in a run's `config.json`; nothing in it has to be there.
    """
    devices = dict.fromkeys(found.get("devices", []))  # a processor can be several to JAX
    cores = f"{found.get('cores', '?')} cores"
    return ", ".join([found.get("cpu", "unknown processor"), cores, *devices])
