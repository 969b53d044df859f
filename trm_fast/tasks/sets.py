"""Puzzles with their answers as arrays, and training and test sets of them: no test puzzle is equivalent to a training
one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from trm_fast.errors import UserError

Grids = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]
Size = TypeVar("Size")


@dataclass(frozen=True)
class PuzzleSet(ABC, Generic[Size]):
    """N puzzles of one size: ``questions`` and ``answers``, uint8 (N, cells), and how hard each is, int32 (N,), if
    known."""

    size: Size
    questions: Grids
    answers: Grids
    ratings: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: Rows | slice) -> Self:
        ratings = None if self.ratings is None else self.ratings[rows]
        return replace(self, questions=self.questions[rows], answers=self.answers[rows], ratings=ratings)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Puzzles of one size, which all have ratings, one after the other."""
        columns = zip(*((part.questions, part.answers, part.ratings) for part in parts), strict=True)
        return cls(parts[0].size, *(np.concatenate(column) for column in columns))

    @abstractmethod
    def classes(self) -> list[bytes]:
        """For each puzzle its equivalence class under the symmetries, equal bytes for the same class."""


T = TypeVar("T", bound=PuzzleSet[Any])


@dataclass(frozen=True)
class Sets(Generic[T]):
    train: T
    test: T
    source: str
    notes: list[str] = field(default_factory=list)


def distinct(draw: Callable[[int, int], T], wanted: int, least_new: float) -> T:
    """Puzzles of a sequence of which no two are equivalent, at least ``wanted``; fewer where a part of it has less than
    the share ``least_new`` of new ones. ``draw(missing, first)`` gives some from number ``first`` on."""
    seen: set[bytes] = set()
    parts: list[T] = []
    drawn = 0
    while len(seen) < wanted:
        chunk = draw(wanted - len(seen), drawn)
        drawn += len(chunk)
        fresh = []
        for row, form in enumerate(chunk.classes()):
            if form not in seen:
                seen.add(form)
                fresh.append(row)
        parts.append(chunk.take(np.array(fresh, dtype=np.intp)))
        if len(fresh) < int(len(chunk) * least_new):
            break
    return parts[0].joined(parts)


def hold_out(items: T, classes: Sequence[bytes], share: float, seed: int, source: str) -> tuple[T, T]:
    """One set in two: ``share`` of its equivalence classes, with all their rows, held out for testing."""
    index: dict[bytes, int] = {}
    numbers = np.array([index.setdefault(form, len(index)) for form in classes])
    rng, problem = np.random.default_rng(seed % 2**64), f"{source}: all puzzles are equivalent"
    _, test_classes = deal(len(index), share, rng, problem)
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


def deal(count: int, share: float, rng: np.random.Generator, problem: str) -> tuple[Rows, Rows]:
    """Numbers below ``count`` in a random order: those for training, and a ``share`` for testing, at least one each.
    ``problem`` is why there are not two."""
    if count < 2:
        raise UserError(f"{problem}: none can be held out for testing")
    order = rng.permutation(count)
    held_out = min(max(1, round(share * count)), count - 1)
    return order[held_out:], order[:held_out]
