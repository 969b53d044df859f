"""The feed of training examples: shuffled passes over the data, in which examples are augmented at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import Examples, IntArray, Task

ORDER, AUGMENTATION, EXPLORATION, STATES, EASY = range(5)
"""The purposes of random numbers, each with a sequence of its own."""

FIRST_SHARE = 0.1
"""The share of the easiest examples from which ``easy_first`` draws at the start."""


class Feed:
    """An endless sequence of examples in chunks, which can be prepared in any order.

    All random numbers are functions of (``seed``, purpose, number). Therefore a checkpoint stores only the position in
    the sequence, and another thread can prepare chunks ahead. Examples with a ``mask`` are sorted by length within each
    group of ``batch_size``, so that each part of a batch has rows of similar length.

    The first ``easy_first`` examples are drawn at random from the easiest ones by ``difficulty`` (N,): at first from
    the share ``FIRST_SHARE`` of the data, at last from all of it. After them the passes over the data begin.
    """

    def __init__(
        self,
        task: Task,
        examples: Examples,
        seed: int,
        batch_size: int = 1,
        *,
        difficulty: npt.NDArray[Any] | None = None,
        easy_first: int = 0,
    ) -> None:
        self.task, self.examples, self.seed, self.batch_size = task, examples, seed, batch_size
        self.easy_first = 0 if difficulty is None else easy_first
        self._from_easy = None if difficulty is None else np.argsort(difficulty, kind="stable")
        self._orders: dict[int, npt.NDArray[np.intp]] = {}

    @property
    def example_spec(self) -> Examples:
        """An empty set of examples, with the shapes and dtypes of the data."""
        return self.examples.take(slice(0))

    def chunk(self, number: int, size: int) -> Examples:
        """The augmented examples of the sequence from ``number * size`` to ``(number + 1) * size``."""
        count, parts = len(self.examples), [self._easy(number, size)]
        start, end = (max(0, position - self.easy_first) for position in (number * size, (number + 1) * size))
        while start < end:
            epoch, position = divmod(start, count)
            parts.append(self._order(epoch)[position : position + end - start])
            start += len(parts[-1])
        rng = np.random.default_rng((self.seed, AUGMENTATION, number))
        examples = self.task.augment(self.examples.take(np.concatenate(parts)), rng)
        if "mask" not in examples.extra:
            return examples
        lengths = examples.extra["mask"].sum(1)
        return examples.take(np.lexsort((lengths, np.arange(size) // self.batch_size)))

    def _easy(self, number: int, size: int) -> npt.NDArray[np.intp]:
        """The rows of a chunk that belong to the first ``easy_first`` examples of the sequence."""
        positions = np.arange(number * size, min((number + 1) * size, self.easy_first))
        if self._from_easy is None or not len(positions):
            return np.zeros(0, dtype=np.intp)
        share = FIRST_SHARE + (1 - FIRST_SHARE) * positions / self.easy_first
        allowed = np.ceil(share * len(self.examples)).astype(np.intp)
        return self._from_easy[np.random.default_rng((self.seed, EASY, number)).integers(0, allowed)]

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
