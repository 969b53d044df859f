"""Fresh examples on the device: a ring that the host fills ahead, and a captured step takes from without asking.

How many slots halt in a step is known on the device alone. So the step counts what it takes, and takes the next rows
of the ring by a running sum over the halted slots: fixed shapes, no wait. The host learns the count some steps late and
keeps the ring full enough for the case that every slot halts in every step that it has not heard of. Which row is the
n-th of the sequence does not depend on when it was put there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trm_fast.tasks.base import Array, Examples
from trm_fast.training.world import ALONE, World

SMALLEST_CHUNK = 64
"""Examples are augmented in chunks at least this large: smaller ones cost as much."""

LAG = 8
"""Steps that the host may be ahead of a GPU."""


class Source(Protocol):
    """An endless sequence of examples in chunks, and their ``kind`` (none of them)."""

    @property
    def kind(self) -> Examples: ...

    def chunk(self, number: int, size: int) -> Examples: ...


class Direct:
    """A counter that can be read at any time, as on a CPU."""

    def __init__(self, counter: Tensor) -> None:
        self.counter = counter

    def sent(self) -> None:
        """A step that changes the counter was sent to the device."""

    def latest(self) -> tuple[int, int]:
        """A value, and how many steps were sent since it was taken."""
        return int(self.counter), 0

    def wait(self) -> None:
        """Until the oldest step that is still under way is done."""


class Delayed:
    """A counter on a GPU, copied out behind every step; only values whose copy has ended are looked at."""

    def __init__(self, counter: Tensor, event: Callable[[], Any] = torch.cuda.Event) -> None:
        self.counter, self.event = counter, event
        self.known = int(counter)
        self.under_way: deque[tuple[Any, Tensor]] = deque()

    def sent(self) -> None:
        value = torch.empty_like(self.counter, device="cpu", pin_memory=self.counter.is_cuda)
        value.copy_(self.counter, non_blocking=True)
        event = self.event()
        event.record()
        self.under_way.append((event, value))

    def latest(self) -> tuple[int, int]:
        while self.under_way and self.under_way[0][0].query():
            self.known = int(self.under_way.popleft()[1])
        return self.known, len(self.under_way)

    def wait(self) -> None:
        self.under_way[0][0].synchronize()


class Pool:
    """Rows for a batch of ``slots`` (all processes' together) on ``device``.

    ``taken`` int64 (): rows taken so far, the whole of the position. Every process holds the same ring, and takes the
    rows of its own slots from it.
    """

    def __init__(self, source: Source, slots: int, device: torch.device, world: World = ALONE) -> None:
        self.source, self.slots, self.world = source, slots, world
        self.chunk = max(SMALLEST_CHUNK, slots)
        ahead = LAG if device.type == "cuda" else 0
        self.size = self.chunk * (1 + -(-(ahead + 1) * slots // self.chunk))
        self.rows = empty_rows(source.kind, self.size, device)
        self.taken = torch.zeros((), dtype=torch.int64, device=device)
        self.worker = ThreadPoolExecutor(1, "examples") if device.type == "cuda" else None
        self._coming: dict[int, Future[dict[str, Tensor]]] = {}
        self.restart()

    def restart(self) -> None:
        """Goes on at ``taken``, which someone has set."""
        self.reader: Direct | Delayed = Delayed(self.taken) if self.taken.is_cuda else Direct(self.taken)
        self.next = self.reader.latest()[0] // self.chunk  # the first chunk that is not in the ring
        self._coming.clear()

    def fresh(self, halted: Tensor) -> dict[str, Tensor]:
        """The next rows at the places of halted slots bool (B,), any rows at the others. Part of the step."""
        wanted = halted.cumsum(0)
        before, total = self.world.before(wanted[-1])
        places = (self.taken + before + wanted - 1) % self.size
        self.taken += total
        return {name: rows.index_select(0, places) for name, rows in self.rows.items()}

    def refill(self) -> None:
        """Before a step is sent: puts chunks where their rows are no longer needed. Waits only where the host is
        ``LAG`` steps ahead."""
        while True:
            taken, under_way = self.reader.latest()
            while (self.next + 1) * self.chunk <= taken + self.size:
                self._put(self.next)
                self.next += 1
            if self.next * self.chunk >= taken + (under_way + 1) * self.slots:
                return
            self.reader.wait()

    def sent(self) -> None:
        """After a step was sent."""
        self.reader.sent()

    def _put(self, number: int) -> None:
        start = number * self.chunk % self.size
        for name, rows in self._get(number).items():
            self.rows[name][start : start + self.chunk].copy_(rows, non_blocking=True)

    def _get(self, number: int) -> dict[str, Tensor]:
        if self.worker is None:
            return self._make(number)
        for ahead in (number, number + 1):
            if ahead not in self._coming:
                self._coming[ahead] = self.worker.submit(self._make, ahead)
        return self._coming.pop(number).result()

    def _make(self, number: int) -> dict[str, Tensor]:
        arrays = self.source.chunk(number, self.chunk).arrays()
        return {name: to_pinned(array, self.taken.is_cuda) for name, array in arrays.items()}


def to_pinned(array: Array, pin: bool) -> Tensor:
    """An array as a tensor that a GPU can copy in the background. torch keeps its memory until that is done."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if pin else tensor


def empty_rows(kind: Examples, count: int, device: torch.device) -> dict[str, Tensor]:
    """Zeros for ``count`` examples of a kind, each array by its name."""
    return {
        name: torch.zeros((count, *array.shape[1:]), dtype=torch.from_numpy(array).dtype, device=device)
        for name, array in kind.arrays().items()
    }
