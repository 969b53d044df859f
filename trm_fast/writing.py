"""Writes files and folders where they are sent.

A regular file is written beside its place and renamed, so that no reader finds half a file, and a full disk or a killed
process leaves nothing under its name. Symbolic links are followed. Devices, pipes and open descriptors such as
``/dev/stdout`` receive the bytes. Permissions are those of the replaced file, or follow the umask.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from trm_fast.errors import UserError

PART = ".part"
"""The end of the names of folders with unfinished files. A killed process leaves them behind."""


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of an empty file. What is written to it becomes ``path`` when the block ends without an error.

    Raises:
        UserError: the file cannot be written. ``__cause__`` is the OSError.
    """
    path = Path(path)
    with explained(path):
        target, direct = Path(os.path.realpath(path)), is_stream(path)
        if not direct:
            _check_target(target)
            direct = target.exists() and not os.access(target.parent, os.W_OK)
        with TemporaryDirectory() if direct else _part_folder(target) as folder:
            file = Path(folder, path.name)
            file.touch()
            mode = stat.S_IMODE(file.stat().st_mode)
            yield file
            if direct:
                _send(file, path)
            else:
                _finish(file, target, mode)


@contextmanager
def new_folder(path: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """Yields an empty folder. What is written into it appears in the folder ``path`` when the block ends without an
    error: at once if there is no such folder yet, otherwise file by file, the file ``last`` at the end.

    Raises:
        UserError: the folder or a file in it cannot be written. ``__cause__`` is the OSError.
    """
    target = Path(os.path.realpath(path))
    with explained(Path(path)):
        exists = target.is_dir()
        if not exists:
            if os.path.lexists(target):
                raise NotADirectoryError(errno.ENOTDIR, "it is not a folder; choose another name")
            make_folder(target.parent)
        with _part_folder(target / last if exists else target) as folder:
            new = Path(folder, target.name)
            new.mkdir()
            mode = stat.S_IMODE(new.stat().st_mode) & 0o666
            yield new
            files = sorted((f for f in new.rglob("*") if f.is_file()), key=lambda f: f == new / last)
            if not exists:
                for file in files:
                    os.chmod(file, mode)
                    _sync(file)
                os.rename(new, target)  # fails if there is something by now
                return
            for file in files:
                target_file = target / file.relative_to(new)
                target_file.parent.mkdir(parents=True, exist_ok=True)
                with new_file(target_file) as unfinished:
                    shutil.move(file, unfinished)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file.

    Raises:
        UserError: the file cannot be written.
    """
    with new_file(path) as file:
        file.write_bytes(content)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Creates a folder and those above it, if they do not exist. Symbolic links are followed.

    Raises:
        UserError: it cannot be created.
    """
    try:
        os.makedirs(os.path.realpath(path), exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path} is not a folder: choose another name") from None
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror or error}") from error


def check_file(path: str | os.PathLike[str]) -> None:
    """Checks that a file can be written, as far as that is known before writing.

    Raises:
        UserError: it cannot.
    """
    path = Path(path)
    with explained(path):
        if not is_stream(path):
            _check_target(Path(os.path.realpath(path)))


def is_stream(path: Path) -> bool:
    """Whether a path is a device, pipe, socket or open descriptor, which receives bytes and is never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return _descriptor(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left behind in a folder. Nobody may be writing into the folder."""
    for left in folder.glob(f".*{PART}"):
        shutil.rmtree(left, ignore_errors=True)


def out_of_space(error: BaseException | None) -> bool:
    """Whether an error means that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a UserError about writing ``path``.

    Raises:
        UserError: there was an OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _descriptor(path) is not None:
            raise  # the program that reads the output has ended, as in `... --output /dev/stdout | head`
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason = f"the folder {path.parent} does not exist"
        elif isinstance(error, IsADirectoryError):
            reason = "it is a folder; name a file"
        raise UserError(f"cannot write {path}: {reason}") from error


def _check_target(target: Path) -> None:
    """Checks a regular file or one that does not exist yet; all links are resolved."""
    if target.is_symlink():
        raise OSError(errno.ELOOP, "the symbolic link leads back to itself")
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not target.parent.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{target.parent} is not a folder")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _part_folder(target: Path) -> TemporaryDirectory[str]:
    """A new folder beside a file. What the writer itself leaves there is removed with it."""
    return TemporaryDirectory(
        prefix=f".{target.name[:40]}.", suffix=PART, dir=target.parent, ignore_cleanup_errors=True
    )


def _finish(file: Path, target: Path, mode: int) -> None:
    """Gives a written file its permissions, syncs it, and renames it to ``target``."""
    with suppress(FileNotFoundError):
        old = target.stat()
        mode = stat.S_IMODE(old.st_mode)
        with suppress(OSError):  # only root may give files away
            os.chown(file, old.st_uid, old.st_gid)
    os.chmod(file, mode)
    _sync(file)
    try:
        os.replace(file, target)
    except OSError as error:
        # A file that a container mounts, or another user's file in /tmp, can be written but not replaced.
        if error.errno not in (errno.EBUSY, errno.EPERM, errno.EACCES) or not target.exists():
            raise
        _send(file, target)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _send(file: Path, path: Path) -> None:
    """Copies a file's bytes into what ``path`` names."""
    number = _descriptor(path)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):  # the order of what was printed before stays
            stream.flush()
    with open(path if number is None else os.dup(number), "wb") as sink, open(file, "rb") as source:
        shutil.copyfileobj(source, sink)


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file that a path such as ``/dev/stdout`` names, through links or not.

    Opening such a path again would start at the beginning of the file and overwrite what is printed there.
    """
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/dev/fd|/proc/{os.getpid()}(/task/\d+)?/fd", folder) and path.name.isdecimal():
            return int(path.name)
        path = Path(folder, path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None
