"""Work that is worth doing often, but only as often as it costs little."""

import time
from collections.abc import Callable

SHARE = 0.02  # of the wall-clock that throttled work may take; chosen by us


class Throttle:
    """Calls a function, or leaves the call out if its calls would take more than `SHARE`."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._not_before = -float("inf")  # in seconds of the clock

    def __call__(self) -> None:
        """Calls the function, or does nothing."""
        start = time.perf_counter()
        if start < self._not_before:
            return
        self._function()
        end = time.perf_counter()
        self._not_before = end + (end - start) * (1.0 / SHARE - 1.0)
