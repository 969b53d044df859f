"""Where fresh training examples come from: shuffled passes over the data, each example under a random symmetry."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import Examples, Task


class Feed:
    """Draws examples for the slots that need one, and nothing for those that don't.

    Deterministic in ``seed``; its position is a few numbers (``state``), so a resumed run goes on where it was.
    """

    def __init__(self, task: Task, examples: Examples, seed: int) -> None:
        self.task, self.examples, self.seed = task, examples, seed
        self.rng = np.random.default_rng(seed)
        self.epoch, self.position = 0, 0
        self.order = self._order()

    def _order(self) -> npt.NDArray[np.intp]:
        return np.random.default_rng((self.seed, self.epoch)).permutation(len(self.examples))

    def draw(self, count: int) -> Examples:
        """The next ``count`` examples, augmented."""
        parts = []
        while count:
            part = self.order[self.position : self.position + count]
            parts.append(part)
            self.position += len(part)
            count -= len(part)
            if self.position == len(self.order):
                self.epoch, self.position = self.epoch + 1, 0
                self.order = self._order()
        return self.task.augment(self.examples.take(np.concatenate(parts)), self.rng)

    def minimum_steps(self, batch_size: int, exploration: float, max_steps: int) -> npt.NDArray[np.int32]:
        """For each slot the steps it may not halt before: mostly 0, for an ``exploration`` share 2..max_steps."""
        explore = self.rng.random(batch_size) < exploration
        return (explore * self.rng.integers(min(2, max_steps), max_steps + 1, batch_size)).astype(np.int32)

    def state(self) -> dict[str, Any]:
        """JSON-ready position."""
        return {"epoch": self.epoch, "position": self.position, "rng": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.rng.bit_generator.state = state["rng"]
        self.order = self._order()
