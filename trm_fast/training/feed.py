"""Where training examples come from: shuffled passes over the data, each example under a random symmetry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import Examples, IntArray, Task

ORDER, AUGMENTATION, EXPLORATION = range(3)
"""What a random number is drawn for: each has a sequence of its own."""


class Feed:
    """An endless sequence of examples, cut into chunks that can be made in any order and at any time.

    All randomness is a function of (``seed``, what for, number), so the position in the sequence is all there is to
    keep, and a chunk may be made ahead, by another thread, or twice. Examples with a ``mask`` come sorted by length
    within each ``batch_size``: a batch that is computed in parts has rows of like length side by side.
    """

    def __init__(self, task: Task, examples: Examples, seed: int, batch_size: int = 1) -> None:
        self.task, self.examples, self.seed, self.batch_size = task, examples, seed, batch_size
        self._orders: dict[int, npt.NDArray[np.intp]] = {}

    @property
    def example_spec(self) -> Examples:
        """No examples, of the shapes and dtypes that will come."""
        return self.examples.take(slice(0))

    def chunk(self, number: int, size: int) -> Examples:
        """Examples ``number * size`` to ``(number + 1) * size`` of the sequence, augmented."""
        count, start, parts = len(self.examples), number * size, []
        while start < (number + 1) * size:
            epoch, place = divmod(start, count)
            parts.append(self._order(epoch)[place : place + (number + 1) * size - start])
            start += len(parts[-1])
        rng = np.random.default_rng((self.seed, AUGMENTATION, number))
        examples = self.task.augment(self.examples.take(np.concatenate(parts)), rng)
        if "mask" not in examples.extra:
            return examples
        lengths = examples.extra["mask"].sum(1)
        return examples.take(np.lexsort((lengths, np.arange(size) // self.batch_size)))

    def _order(self, epoch: int) -> npt.NDArray[np.intp]:
        if epoch not in self._orders:
            while len(self._orders) > 1:  # a chunk may span the end of one and the start of the next
                del self._orders[min(self._orders)]
            self._orders[epoch] = np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.examples))
        return self._orders[epoch]

    def minimum_steps(self, step: int, batch_size: int, exploration: float, max_steps: int) -> IntArray:
        """For each slot the supervision steps before which it may not halt in training step ``step``, int32
        (batch_size,): 0 for most, 2..max_steps for a share ``exploration`` of them."""
        rng = np.random.default_rng((self.seed, EXPLORATION, step))
        explores = rng.random(batch_size) < exploration
        return (explores * rng.integers(min(2, max_steps), max_steps + 1, batch_size)).astype(np.int32)
