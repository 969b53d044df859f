"""The lock on a run folder: only one process at a time trains a run. A killed process holds no lock."""

from __future__ import annotations

import json
import os
import socket
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from trm_fast.errors import UserError
from trm_fast.run_folder import CONFIG
from trm_fast.tasks.files import write_text
from trm_fast.training import checkpoint
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup
from trm_fast.writing import make_folder, remove_unfinished

LOCK, HOLDER = ".lock", ".lock.json"
"""The files in the folder: the lock, and who holds it."""

_locks: dict[str, FileLock] = {}
"""The locks of this process by folder. A process may lock a folder several times."""


class RunLock:
    """Holds a folder, which is created if it does not exist, until ``release`` or until the object is deleted.

    Args:
        folder: the folder of a run or of a sweep.
        group: the processes that train together. Each of them makes this call; the first one holds the lock.
        new: whether the folder must not hold a run.

    Raises:
        UserError: another process holds it, the folder holds a run although it must not, or it cannot be created.
            All processes of the group raise.
    """

    def __init__(self, folder: Path, group: ProcessGroup = SINGLE_PROCESS, *, new: bool = False) -> None:
        self._release: weakref.finalize | None = None
        problem: str | None = None
        if group.writes:
            try:
                self._acquire(folder)
                if new and ((folder / CONFIG).exists() or checkpoint.saved_steps(folder)):
                    raise UserError(
                        f"{folder} holds a run already: continue with --resume {folder}, or choose another --out"
                    )
            except UserError as error:
                self.release()
                problem = str(error)
        if problem := group.gather_objects(problem)[0]:
            raise UserError(problem)

    def _acquire(self, folder: Path) -> None:
        make_folder(folder)
        path = os.path.realpath(folder)
        lock = _locks.setdefault(path, FileLock(Path(path, LOCK), thread_local=False))
        first = not lock.is_locked
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{_holder(folder)} is training {folder}: wait until it ends, or stop it and use --resume"
            ) from None
        except (OSError, NotImplementedError):
            return  # the file system has no locks, or permits no writing: the first file to be written tells
        self._release = weakref.finalize(self, lock.release)
        if first:
            remove_unfinished(folder)
            with suppress(UserError):  # a full disk
                about = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
                write_text(folder / HOLDER, json.dumps(about) + "\n")

    def release(self) -> None:
        """Releases the folder. Later calls do nothing."""
        if self._release is not None:
            self._release()


def _holder(folder: Path) -> str:
    try:
        about = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {int(about['pid'])} on {about['host']} (since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
