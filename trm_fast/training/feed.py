"""The feed of training examples: shuffled passes over the data, in which examples are augmented at random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import Examples, IntArray, Task

ORDER, AUGMENTATION, EXPLORATION = range(3)
"""The purposes of random numbers, each with a sequence of its own."""


class Feed:
    """An endless sequence of examples in chunks, which can be prepared in any order.

    All random numbers are functions of (``seed``, purpose, number). Therefore a checkpoint stores only the position in
    the sequence, and another thread can prepare chunks ahead. Examples with a ``mask`` are sorted by length within each
    group of ``batch_size``, so that each part of a batch has rows of similar length.
    """

    def __init__(self, task: Task, examples: Examples, seed: int, batch_size: int = 1) -> None:
        self.task, self.examples, self.seed, self.batch_size = task, examples, seed, batch_size
        self._orders: dict[int, npt.NDArray[np.intp]] = {}

    @property
    def example_spec(self) -> Examples:
        """An empty set of examples, with the shapes and dtypes of the data."""
        return self.examples.take(slice(0))

    def chunk(self, number: int, size: int) -> Examples:
        """The augmented examples of the sequence from ``number * size`` to ``(number + 1) * size``."""
        count, start, parts = len(self.examples), number * size, []
        while start < (number + 1) * size:
            epoch, position = divmod(start, count)
            parts.append(self._order(epoch)[position : position + (number + 1) * size - start])
            start += len(parts[-1])
        rng = np.random.default_rng((self.seed, AUGMENTATION, number))
        examples = self.task.augment(self.examples.take(np.concatenate(parts)), rng)
        if "mask" not in examples.extra:
            return examples
        lengths = examples.extra["mask"].sum(1)
        return examples.take(np.lexsort((lengths, np.arange(size) // self.batch_size)))

    def _order(self, epoch: int) -> npt.NDArray[np.intp]:
        if epoch not in self._orders:
            while len(self._orders) > 1:  # keep two, because a chunk may span two epochs
                del self._orders[min(self._orders)]
            self._orders[epoch] = np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.examples))
        return self._orders[epoch]

    def minimum_steps(self, step: int, batch_size: int, exploration: float, max_steps: int) -> IntArray:
        """The minimum number of supervision steps of each slot at training step ``step``, int32 (batch_size,). As
        published, a random share ``exploration`` of the slots has a minimum from 2 to max_steps, the others have 0."""
        rng = np.random.default_rng((self.seed, EXPLORATION, step))
        explores = rng.random(batch_size) < exploration
        return (explores * rng.integers(min(2, max_steps), max_steps + 1, batch_size)).astype(np.int32)
