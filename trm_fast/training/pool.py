"""Fresh examples on the device: a ring that the host fills ahead, and a captured step takes from without asking.

How many slots halt in a step is known on the device alone. So the step counts what it takes, and takes the next ones
of the ring by a running sum over the halted slots: fixed shapes, no wait. The host learns the count some steps late and
keeps the ring full enough for the case that every slot halts in every step that it has not heard of. Which example is
the n-th of the sequence does not depend on when it was put there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trm_fast.training.batch import Batch
from trm_fast.training.feed import Feed
from trm_fast.training.process_group import ALONE, ProcessGroup

SMALLEST_CHUNK = 64
"""Examples are augmented in chunks at least this large: smaller ones cost as much."""

LAG = 8
"""Steps that the host may be ahead of a GPU."""


class DeviceCounter:
    """The value of a tensor () that steps change. On a GPU it is copied to the host after every step, and only copies
    that have arrived are read: nothing waits for the device. On a CPU, where ``event`` is None, it is read at once."""

    def __init__(self, tensor: Tensor, event: Callable[[], Any] | None) -> None:
        self.tensor, self.event = tensor, event
        self.last_value = int(tensor)
        self.under_way: deque[tuple[Any, Tensor]] = deque()

    def sent(self) -> None:
        """Call it after each step that was sent to the device."""
        if self.event is None:
            self.last_value = int(self.tensor)
            return
        value = torch.empty_like(self.tensor, device="cpu", pin_memory=self.tensor.is_cuda)
        value.copy_(self.tensor, non_blocking=True)
        event = self.event()
        event.record()
        self.under_way.append((event, value))

    def latest(self) -> tuple[int, int]:
        """The newest value that has arrived, and how many steps were sent after it."""
        while self.under_way and self.under_way[0][0].query():
            self.last_value = int(self.under_way.popleft()[1])
        return self.last_value, len(self.under_way)

    def wait(self) -> None:
        """Until the oldest copy under way has arrived."""
        self.under_way[0][0].synchronize()


def sizes(slots: int, device: torch.device) -> tuple[int, int]:
    """Examples of a chunk and of the ring for a batch of ``slots``."""
    chunk, ahead = max(SMALLEST_CHUNK, slots), LAG if device.type == "cuda" else 0
    return chunk, chunk * (1 + -(-(ahead + 1) * slots // chunk))


class Pool:
    """Examples for a batch of ``slots`` (all processes' together) on ``device``.

    ``taken`` int64 (): examples taken so far, the whole of the position. Every process holds the same ``ring``, and
    takes the examples of its own slots from it.
    """

    def __init__(self, source: Feed, slots: int, device: torch.device, group: ProcessGroup = ALONE) -> None:
        self.source, self.slots, self.group = source, slots, group
        self.chunk, self.size = sizes(slots, device)
        self.ring = Batch.zeros(source.example_spec, self.size, device)
        self.taken = torch.zeros((), dtype=torch.int64, device=device)
        self.worker = ThreadPoolExecutor(1, "examples") if device.type == "cuda" else None
        self._coming: dict[int, Future[Batch]] = {}
        self.restart()

    def restart(self) -> None:
        """Goes on at ``taken``, which someone has set."""
        self.counter = DeviceCounter(self.taken, torch.cuda.Event if self.taken.is_cuda else None)
        self.next = self.counter.latest()[0] // self.chunk  # the first chunk that is not in the ring
        self._coming.clear()

    def next_examples(self, halted: Tensor) -> Batch:
        """The next examples at the places of halted slots bool (B,), any at the others. Part of the step."""
        count = halted.cumsum(0)
        before, total = self.group.exclusive_sum(count[-1])
        positions = (self.taken + before + count - 1) % self.size
        self.taken += total
        return self.ring.index(positions)

    def refill(self) -> None:
        """Before a step is sent: puts chunks where examples are no longer needed. Waits only where the host is
        ``LAG`` steps ahead."""
        while True:
            taken, under_way = self.counter.latest()
            while (self.next + 1) * self.chunk <= taken + self.size:
                self._put(self.next)
                self.next += 1
            if self.next * self.chunk >= taken + (under_way + 1) * self.slots:
                return
            self.counter.wait()

    def sent(self) -> None:
        """After a step was sent."""
        self.counter.sent()

    def _put(self, number: int) -> None:
        start = number * self.chunk % self.size
        self.ring.take(slice(start, start + self.chunk)).copy_(self._get(number))

    def _get(self, number: int) -> Batch:
        if self.worker is None:
            return self._make(number)
        for ahead in (number, number + 1):
            if ahead not in self._coming:
                self._coming[ahead] = self.worker.submit(self._make, ahead)
        return self._coming.pop(number).result()

    def _make(self, number: int) -> Batch:
        return Batch.of_examples(self.source.chunk(number, self.chunk), pin=self.taken.is_cuda)
