"""The free memory of the computer, and the check that something fits into it before it is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trm_fast.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
"""The files with the limit and the used bytes of a control group, in the two versions of the interface."""


class OutOfMemory(UserError):
    """Something is larger than the free memory."""


def free_memory() -> int:
    """Bytes that this process can allocate: what is available, within the limits of control groups (containers) and of
    the process (``ulimit -v`` and ``ulimit -d``)."""
    import psutil

    return max(0, min((psutil.virtual_memory().available, *_group_limits(), *_process_limits())))


def require_memory(needed: float, what: str, advice: str) -> None:
    """Checks that ``needed`` bytes are free.

    Args:
        needed: number of bytes.
        what: what needs them, for the message.
        advice: what the user can do about it.

    Raises:
        OutOfMemory: there is less memory.
    """
    if needed > (free := free_memory()):
        raise OutOfMemory(f"{what} needs {size_text(needed)} of memory, and {size_text(free)} is free: {advice}")


def size_text(count: float) -> str:
    """A number of bytes as text.

    Examples:
        >>> size_text(3 << 29), size_text(1000)
        ('1.5 GiB', '1,000 bytes')
    """
    for unit, size in (("EiB", 1 << 60), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _group_limits() -> Iterator[int]:
    """The bytes that each control group of this process leaves. Cached files count as free."""
    paths = {("", V2), ("memory", V1)}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            version = V1 if controllers else V2
            if not controllers or "memory" in controllers.split(","):
                group = Path(name.lstrip("/"))
                root = "memory" if controllers else ""
                paths |= {(str(Path(root) / part), version) for part in (group, *group.parents)}
    for folder, (limit, used) in paths:
        with suppress(OSError, ValueError):  # no such group, or the limit is "max"
            total, taken = (int((CGROUPS / folder / name).read_text()) for name in (limit, used))
            statistics = (CGROUPS / folder / "memory.stat").read_text().split()
            counts = dict(zip(statistics[::2], map(int, statistics[1::2]), strict=True))
            yield total - taken + counts.get("inactive_file", 0) + counts.get("active_file", 0)


def _process_limits() -> Iterator[int]:
    import psutil

    with suppress(ImportError, OSError):  # resource exists on Unix alone
        import resource

        memory = psutil.Process().memory_info()
        for limit, used in ((resource.RLIMIT_AS, memory.vms), (resource.RLIMIT_DATA, getattr(memory, "data", 0))):
            if (soft := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
                yield soft - used
