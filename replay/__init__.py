"""Device-resident experience storage."""

from replay import buffer
from replay.buffer import ReplayState, Transition, example_transition

__all__ = ["ReplayState", "Transition", "buffer", "example_transition"]
