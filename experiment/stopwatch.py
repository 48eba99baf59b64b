"""How long the parts of an epoch take."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Stopwatch:
    """Seconds spent per stage since the last `lap`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times a `with` block as part of `stage`."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        """Returns the seconds per stage and starts again from zero."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
