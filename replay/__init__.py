"""Device-resident experience storage."""

from replay import buffer
from replay.buffer import ReplayState, Transition, WeightedTransition, example_transition

__all__ = ["ReplayState", "Transition", "WeightedTransition", "buffer", "example_transition"]
