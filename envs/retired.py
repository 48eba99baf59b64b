"""MuJoCo environments that no longer run, and what to use instead."""

import re
from collections.abc import Container

from errors import UserError

_MUJOCO_FAMILIES = (
    "Ant",
    "AntTruncated",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "HumanoidTruncated",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)


def refuse(name: str, known: Container[str]) -> None:
    """Raises UserError for versions 0 to 3 of the MuJoCo environments, and for Pusher-v4.

    Args:
      name: an id without a module.
      known: the ids that may be suggested.
    """
    if name == "Pusher-v4":
        raise UserError("Pusher-v4 runs only with mujoco < 3. Use Pusher-v5.")
    retired = re.fullmatch(r"(\w+)-v[0-3]", name)
    if retired is None:
        return
    # The original MBPO configurations call the truncated environments AntTruncatedObs-v2.
    family = retired[1].replace("TruncatedObs", "Truncated")
    if family in _MUJOCO_FAMILIES:
        v4 = f"{family}-v4"
        comparison = f", or {v4} to compare with published tables" if v4 in known else ""
        raise UserError(
            f"{name!r} is a retired MuJoCo environment: it needs the old mujoco-py. "
            f"Use {family}-v5{comparison}."
        )
