"""The pool: halted slots take the examples in order, however late the host learns their number."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.tasks.base import Examples
from trm_fast.training import pool as pool_module
from trm_fast.training.batch import Batch
from trm_fast.training.pool import DeviceCounter, Pool

CPU = torch.device("cpu")


class Numbers:
    """A feed whose examples are their positions in the sequence."""

    example_spec = Examples.of_questions(np.zeros((0, 1), dtype=np.int64))
    chunks: list[int]

    def __init__(self) -> None:
        self.chunks = []

    def chunk(self, number: int, size: int) -> Examples:
        self.chunks.append(number)
        return Examples.of_questions(np.arange(number * size, (number + 1) * size)[:, None])


class Device:
    """Emulates the events of a GPU that is some steps late."""

    def __init__(self, lag: int) -> None:
        self.lag, self.queue, self.waits = lag, deque[Any](), 0

    def event(self) -> Any:
        device = self

        class Event:
            done = False

            def record(self) -> None:
                device.queue.append(self)
                while len(device.queue) > device.lag:
                    device.queue.popleft().done = True

            def query(self) -> bool:
                return self.done

            def synchronize(self) -> None:
                device.waits += 1
                while not self.done:
                    device.queue.popleft().done = True

        return Event()


def taken_rows(pool: Pool, steps: int, seed: int = 0) -> tuple[list[int], int]:
    """The examples that halted slots take in some steps, and their number; random slots halt."""
    rng, rows, count = np.random.default_rng(seed), [], 0
    for _ in range(steps):
        halted = torch.from_numpy(rng.random(pool.slots) < rng.choice([0.0, 0.1, 0.5, 1.0]))
        pool.refill()
        fresh = pool.next_examples(halted).inputs[:, 0]
        rows += fresh[halted].tolist()
        count += int(halted.sum())
        pool.step_sent()
    return rows, count


@pytest.mark.parametrize("slots", [1, 7, 64, 100])
def test_examples_come_in_order_and_none_twice(slots: int) -> None:
    source = Numbers()
    pool = Pool(source, slots, CPU)
    rows, count = taken_rows(pool, 60)
    assert rows == list(range(count))
    assert int(pool.taken) == count
    assert source.chunks == list(range(len(source.chunks)))
    assert len(source.chunks) * pool.chunk <= count + 2 * pool.chunk, "only few examples are prepared and not taken"


@pytest.mark.parametrize("lag", [1, 3, 8, 50])
@pytest.mark.parametrize("slots", [7, 100])
def test_a_late_count_does_not_change_the_examples(lag: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LAG", 8)
    pool = Pool(Numbers(), slots, CPU)
    pool.size = pool.chunk * (1 + -(-9 * slots // pool.chunk))  # as on a GPU
    pool.ring = Batch.zeros(Numbers.example_spec, pool.size, CPU)
    device = Device(lag)
    pool.restart()
    pool.counter = DeviceCounter(pool.taken, device.event)
    rows, count = taken_rows(pool, 200, seed=lag)
    assert rows == list(range(count))
    assert count > 3 * pool.size, "the ring went round"
    assert (device.waits > 0) == (lag == 50), "the host waits only if it is too far ahead"


@pytest.mark.parametrize("taken", [0, 5, 64, 200, 12_345])
def test_the_position_alone_determines_the_next_examples(taken: int) -> None:
    pool = Pool(Numbers(), 7, CPU)
    taken_rows(pool, 9)
    pool.taken.fill_(taken)
    pool.restart()
    rows, count = taken_rows(pool, 30)
    assert rows == list(range(taken, taken + count))
