"""Fields that stored configurations have and the present one has not, and what became of them."""

import copy
from typing import Any

FORMER: dict[str, str | None] = {
    "planner.precision": "precision",  # of plans alone, then; fits were float32
}
"""Dotted name in a `config.json` -> its name now; `None` where nothing takes its place."""


def with_present_names(config: dict[str, Any], former: dict[str, str | None] = FORMER) -> dict:
    """Returns a stored configuration with the present names of its fields.

    A value that was left open is dropped: the present field has a default for that.

    Args:
      config: by blocks, as in `config.json`; it is left as it is.
      former: the table of names.
    """
    config = copy.deepcopy(config)
    for old, new in former.items():
        value = _block(config, old).pop(_leaf(old), None)
        if new is not None and value is not None:
            if "." in new:
                config.setdefault(new.partition(".")[0], {})
            _block(config, new).setdefault(_leaf(new), value)
    return config


def _block(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the block that a dotted name is in; an empty one where there is none."""
    block = name.rpartition(".")[0]
    found = config.get(block) if block else config
    return found if isinstance(found, dict) else {}


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
