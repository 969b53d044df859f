"""The pool: a ring buffer of fresh examples on the device. The host fills it ahead; a captured step takes examples.

Only the device knows how many slots halt in a step. Therefore the step itself counts the examples that it takes, and
finds each halted slot's example with a cumulative sum over the halted slots, with fixed shapes and without waiting for
the host. The host reads this count a few steps late, and keeps enough examples in the ring for the case that every slot
halts in each of these steps. The n-th example of the sequence does not depend on when it is put into the ring.
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
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup

MIN_CHUNK = 64
"""Minimum number of examples in a chunk; augmenting fewer takes as long."""

LAG = 8
"""How many steps the host may be ahead of a GPU."""


class DeviceCounter:
    """Reads an integer tensor () that training steps change, without waiting for the device.

    On a GPU, each step is followed by a copy to the host, and only finished copies are read. ``event`` creates the CUDA
    events that mark the ends of the copies. On a CPU, ``event`` is None and the tensor is read directly.
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
        """The newest value that has arrived, and the number of steps that were sent since."""
        while self.pending and self.pending[0][0].query():
            self.last_value = int(self.pending.popleft()[1])
        return self.last_value, len(self.pending)

    def wait(self) -> None:
        """Waits until the oldest pending copy has arrived."""
        self.pending[0][0].synchronize()


def sizes(slots: int, device: torch.device) -> tuple[int, int]:
    """The numbers of examples in a chunk and in the ring, for a batch of ``slots``."""
    chunk, ahead = max(MIN_CHUNK, slots), LAG if device.type == "cuda" else 0
    return chunk, chunk * (1 + -(-(ahead + 1) * slots // chunk))


class Pool:
    """Fresh examples on ``device`` for a batch with ``slots`` slots in all processes.

    ``taken`` int64 () is the number of examples taken so far, and all that a checkpoint stores of the pool. Every
    process holds the same ``ring`` and takes the examples for its own slots from it.
    """

    def __init__(self, source: Feed, slots: int, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.source, self.slots, self.group = source, slots, group
        self.chunk, self.size = sizes(slots, device)
        self.ring = Batch.zeros(source.example_spec, self.size, device)
        self.taken = torch.zeros((), dtype=torch.int64, device=device)
        self.worker = ThreadPoolExecutor(1, "examples") if device.type == "cuda" else None
        self._prepared: dict[int, Future[Batch]] = {}
        self.restart()

    def restart(self) -> None:
        """Continues at ``taken``, which a checkpoint has changed."""
        self.counter = DeviceCounter(self.taken, torch.cuda.Event if self.taken.is_cuda else None)
        self.next = self.counter.latest()[0] // self.chunk  # the first chunk that is not in the ring
        self._prepared.clear()

    def next_examples(self, halted: Tensor) -> Batch:
        """The next examples, at the positions of the slots whose ``halted`` bool (B,) is True. The examples at other
        positions are meaningless. This is part of the captured step."""
        count = halted.cumsum(0)
        previous, total = self.group.exclusive_sum(count[-1])
        positions = (self.taken + previous + count - 1) % self.size
        self.taken += total
        return self.ring.index(positions)

    def refill(self) -> None:
        """Overwrites used examples with new chunks. It must be called before a step is sent, and waits only if the host
        is ``LAG`` steps ahead."""
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
        return Batch.from_examples(self.source.chunk(number, self.chunk), pin=self.taken.is_cuda)
