"""Sets of examples in two, for training and testing, with whole equivalence classes on one side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from trm_fast.errors import UserError

Rows = npt.NDArray[np.intp]


class Items(Protocol):
    """Puzzles or examples."""

    def __len__(self) -> int: ...
    def take(self, rows: Rows | slice) -> Self: ...


T = TypeVar("T", bound=Items)


def hold_out(items: T, classes: Sequence[bytes], share: float, seed: int, source: str) -> tuple[T, T]:
    """One set in two: ``share`` of its equivalence classes, with all their rows, held out for testing."""
    index: dict[bytes, int] = {}
    numbers = np.array([index.setdefault(form, len(index)) for form in classes])
    _, test_classes = deal(len(index), share, np.random.default_rng(seed % 2**64), source)
    test = np.isin(numbers, test_classes)
    return items.take(np.flatnonzero(~test)), items.take(np.flatnonzero(test))


def without(test: T, leaked: Sequence[int] | Rows, source: str) -> tuple[T, list[str]]:
    """The test set without the rows that are equivalent to training ones, and a note that counts them."""
    if not len(leaked):
        return test, []
    if len(leaked) == len(test):
        raise UserError(f"{source}: every test puzzle is equivalent to a training puzzle")
    note = f"{len(leaked)} of {len(test)} test puzzles are equivalent to a training puzzle and were left out"
    return test.take(np.delete(np.arange(len(test)), leaked)), [note]


def sample(items: T, count: int | None, seed: int, what: str) -> tuple[T, list[str]]:
    """A random ``count`` of the items in their order (all where there are no more, or None), and a note."""
    if count is None or count >= len(items):
        return items, []
    rows = np.random.default_rng(seed % 2**64).choice(len(items), count, replace=False)
    return items.take(np.sort(rows)), [f"a random {count} of {len(items)} {what} puzzles"]


def deal(classes: int, share: float, rng: np.random.Generator, source: str) -> tuple[Rows, Rows]:
    """Class numbers for training and for testing, at least one each."""
    if classes < 2:
        raise UserError(f"{source}: all puzzles are equivalent, so none can be held out for testing")
    order = rng.permutation(classes)
    held = min(max(1, round(share * classes)), classes - 1)
    return order[held:], order[:held]
