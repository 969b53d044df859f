"""One process at a time at what several share, such as the check of a kernel on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_inside: set[Path] = set()


@contextlib.contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same file. One that dies inside has left; inside another
    ``one_process`` of its own, and where there are no locks, a process goes straight in."""
    with contextlib.ExitStack() as held:
        if lock not in _inside and fcntl is not None:
            with contextlib.suppress(OSError):  # no such folder, or one without locks
                lock.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(lock.open("a")), fcntl.LOCK_EX)
                _inside.add(lock)
                held.callback(_inside.discard, lock)
        yield
