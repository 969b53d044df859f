"""Turns Ctrl-C and SIGTERM into a request to end a run after the current step, or in the middle of an evaluation."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(BaseException):
    """A signal ended a block that may be left unfinished. Like KeyboardInterrupt, it is no ``Exception``."""


class Stop(threading.Event):
    """Set by the first signal."""

    def __init__(self) -> None:
        super().__init__()
        self._raises = False

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """A block that the first signal, or an earlier one, ends at once by raising ``Interrupted``."""
        self._raises = True
        try:
            if self.is_set():
                raise Interrupted
            yield
        finally:
            self._raises = False

    def request(self, number: int, frame: Any) -> None:
        """Handles a signal. A second one raises KeyboardInterrupt."""
        if self.is_set():
            raise KeyboardInterrupt
        self.set()
        if self._raises:
            raise Interrupted


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Yields an event that Ctrl-C or SIGTERM sets. Outside the main thread, where Python cannot handle signals, it is
    never set."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {s: signal.signal(s, stop.request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
