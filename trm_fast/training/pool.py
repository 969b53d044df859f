"""The pool: a ring of fresh examples on the device. The host fills it ahead; a captured step takes examples from it.

Only the device knows how many slots halt in a step. So the step itself counts the examples it takes, and finds each
halted slot's example by a running sum over the halted slots. Shapes are fixed and nothing waits. The host reads the
count some steps late and keeps enough examples in the ring for every slot to halt in every step in between. The n-th
example of the sequence is the same whenever it was put there.
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
"""Least number of examples in a chunk; augmenting fewer takes as long."""

LAG = 8
"""Number of steps that the host may be ahead of a GPU."""


class DeviceCounter:
    """The value of an integer tensor () that training steps change, read without waiting for the device.

    On a GPU each step is followed by a copy to the host, and only finished copies are read. ``event`` makes the CUDA
    events that mark their ends. On a CPU, ``event`` is None and the tensor is read directly.
    """

    def __init__(self, tensor: Tensor, event: Callable[[], Any] | None) -> None:
        self.tensor, self.event = tensor, event
        self.last_value = int(tensor)
        self.pending: deque[tuple[Any, Tensor]] = deque()

    def step_sent(self) -> None:
        """Must be called after each step that was sent to the device."""
        if self.event is None:
            self.last_value = int(self.tensor)
            return
        value = torch.empty_like(self.tensor, device="cpu", pin_memory=self.tensor.is_cuda)
        value.copy_(self.tensor, non_blocking=True)
        event = self.event()
        event.record()
        self.pending.append((event, value))

    def latest(self) -> tuple[int, int]:
        """The newest value that has arrived, and the number of steps that were sent after it."""
        while self.pending and self.pending[0][0].query():
            self.last_value = int(self.pending.popleft()[1])
        return self.last_value, len(self.pending)

    def wait(self) -> None:
        """Waits until the oldest pending copy has arrived."""
        self.pending[0][0].synchronize()


def sizes(slots: int, device: torch.device) -> tuple[int, int]:
    """Number of examples in a chunk and in the ring, for a batch of ``slots``."""
    chunk, ahead = max(SMALLEST_CHUNK, slots), LAG if device.type == "cuda" else 0
    return chunk, chunk * (1 + -(-(ahead + 1) * slots // chunk))


class Pool:
    """Fresh examples on ``device`` for a batch of ``slots``, counted over all processes.

    ``taken`` int64 () is the number of examples taken so far. It determines the position in the sequence, so a
    checkpoint stores nothing else. Every process holds the same ``ring`` and takes the examples for its slots from it.
    """

    def __init__(self, source: Feed, slots: int, device: torch.device, group: ProcessGroup = ALONE) -> None:
        self.source, self.slots, self.group = source, slots, group
        self.chunk, self.size = sizes(slots, device)
        self.ring = Batch.zeros(source.example_spec, self.size, device)
        self.taken = torch.zeros((), dtype=torch.int64, device=device)
        self.worker = ThreadPoolExecutor(1, "examples") if device.type == "cuda" else None
        self._prepared: dict[int, Future[Batch]] = {}
        self.restart()

    def restart(self) -> None:
        """Continues at ``taken`` after a checkpoint has changed it."""
        self.counter = DeviceCounter(self.taken, torch.cuda.Event if self.taken.is_cuda else None)
        self.next = self.counter.latest()[0] // self.chunk  # the first chunk that is not in the ring
        self._prepared.clear()

    def next_examples(self, halted: Tensor) -> Batch:
        """The next examples, at the positions of the slots where ``halted`` bool (B,) is true; the examples at other
        positions have no meaning. It is part of the captured step."""
        count = halted.cumsum(0)
        previous, total = self.group.exclusive_sum(count[-1])
        positions = (self.taken + previous + count - 1) % self.size
        self.taken += total
        return self.ring.index(positions)

    def refill(self) -> None:
        """Overwrites used examples with new chunks; to be called before a step is sent. It waits only if the host is
        ``LAG`` steps ahead."""
        while True:
            taken, pending = self.counter.latest()
            while (self.next + 1) * self.chunk <= taken + self.size:
                self._put(self.next)
                self.next += 1
            if self.next * self.chunk >= taken + (pending + 1) * self.slots:
                return
            self.counter.wait()

    def step_sent(self) -> None:
        """Must be called after each step that was sent to the device."""
        self.counter.step_sent()

    def _put(self, number: int) -> None:
        start = number * self.chunk % self.size
        self.ring.take(slice(start, start + self.chunk)).copy_(self._get(number))

    def _get(self, number: int) -> Batch:
        if self.worker is None:
            return self._make(number)
        for ahead in (number, number + 1):
            if ahead not in self._prepared:
                self._prepared[ahead] = self.worker.submit(self._make, ahead)
        return self._prepared.pop(number).result()

    def _make(self, number: int) -> Batch:
        return Batch.of_examples(self.source.chunk(number, self.chunk), pin=self.taken.is_cuda)
