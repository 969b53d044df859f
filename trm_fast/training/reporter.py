"""What a run tells as it goes, and what it is told: to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from trm_fast.training.folder import Record


class Reporter(Protocol):
    """What a run tells as it goes; the command line draws it."""

    def note(self, text: str) -> None: ...

    def stepped(self, step: int) -> None: ...

    def logged(self, record: Record) -> None: ...

    def evaluating(self, done: int, count: int) -> None: ...


class Silent:
    """A reporter that says nothing; a base for those that say little."""

    def note(self, text: str) -> None: ...

    def stepped(self, step: int) -> None: ...

    def logged(self, record: Record) -> None: ...

    def evaluating(self, done: int, count: int) -> None: ...


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
