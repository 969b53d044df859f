"""One process at a time at what several share, such as the file of what was found on a device."""

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
def one_process(path: Path) -> Iterator[None]:
    """Waits until no other process is in here for the same path. One that dies inside has left; inside another
    ``one_process`` of its own, and where there are no locks, a process goes straight in."""
    with contextlib.ExitStack() as held:
        if path not in _inside and fcntl is not None:
            with contextlib.suppress(OSError):  # no such folder, or one without locks
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(path.with_suffix(".lock").open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                _inside.add(path)
                held.callback(_inside.discard, path)
        yield
