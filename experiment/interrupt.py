"""Ctrl-C that is never lost and never lands in the middle of a step."""

import signal
import threading


class Interrupt:
    """Turns Ctrl-C into a request that is obeyed between two environment steps.

    An exception raised wherever the signal happens to land can be swallowed by a library. A second
    Ctrl-C raises at once.
    """

    def __init__(self) -> None:
        self._requested = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raises `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self._requested:
            raise KeyboardInterrupt

    def _request(self, signum: int, frame: object) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
