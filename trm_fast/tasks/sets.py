"""Stores puzzles and answers as arrays, and splits them into training and test sets.

No test puzzle is equivalent to a training puzzle: the puzzles of a symmetry class all belong to the same set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from trm_fast.errors import UserError
from trm_fast.memory import require_memory

Grids = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]
Ratings = npt.NDArray[np.int32] | npt.NDArray[np.float64]
Size = TypeVar("Size")


@dataclass(frozen=True)
class PuzzleSet(ABC, Generic[Size]):
    """N puzzles of one size.

    ``questions`` and ``answers`` are uint8 (N, cells). ``ratings``, int32 or float64 (N,), measure how hard the puzzles
    are; None if that is unknown.
    """

    size: Size
    questions: Grids
    answers: Grids
    ratings: Ratings | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: Rows | slice) -> Self:
        """The puzzles at some indices."""
        ratings = None if self.ratings is None else self.ratings[rows]
        return replace(self, questions=self.questions[rows], answers=self.answers[rows], ratings=ratings)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The puzzles of several sets of one size. All of them must have ratings."""
        columns = zip(*((part.questions, part.answers, part.ratings) for part in parts), strict=True)
        return cls(parts[0].size, *(np.concatenate(column) for column in columns))

    @abstractmethod
    def classes(self) -> list[bytes]:
        """The symmetry class of each puzzle, as bytes that are equal for puzzles of the same class."""


def check_count(count: int, cells: int, noun: str) -> None:
    """Checks that generated examples fit into memory.

    Args:
        count: number of examples.
        cells: numbers in the question or the answer of each.
        noun: what the examples are called.

    Raises:
        UserError: they do not fit.
    """
    # While they are generated there are two copies, of int32, and Python objects that tell equal ones apart.
    require_memory(count * (8 * cells + 200), f"generating {count:,} {noun}", "take fewer")


T = TypeVar("T", bound=PuzzleSet[Any])


@dataclass(frozen=True)
class Sets(Generic[T]):
    """Training and test puzzles; ``source`` and ``notes`` as in ``trm_fast.tasks.base.Dataset``."""

    train: T
    test: T
    source: str
    notes: list[str] = field(default_factory=list)


def distinct(draw: Callable[[int, int], T], count: int, min_new_share: float) -> T:
    """At least ``count`` puzzles of a sequence, no two of them equivalent.

    ``draw(missing, first)`` returns puzzles of the sequence from number ``first``. The search ends early, with fewer
    puzzles, when less than the share ``min_new_share`` of a draw is new.
    """
    seen: set[bytes] = set()
    parts: list[T] = []
    drawn = 0
    while len(seen) < count:
        chunk = draw(count - len(seen), drawn)
        drawn += len(chunk)
        fresh = []
        for row, form in enumerate(chunk.classes()):
            if form not in seen:
                seen.add(form)
                fresh.append(row)
        parts.append(chunk.take(np.array(fresh, dtype=np.intp)))
        if len(fresh) < int(len(chunk) * min_new_share):
            break
    return parts[0].joined(parts)


def hold_out(items: T, classes: Sequence[bytes], share: float, seed: int, source: str) -> tuple[T, T]:
    """Splits a set: ``share`` of its symmetry classes, with all their puzzles, are held out for testing.

    Raises:
        UserError: there is only one class.
    """
    index: dict[bytes, int] = {}
    numbers = np.array([index.setdefault(form, len(index)) for form in classes])
    rng, problem = np.random.default_rng(seed % 2**64), f"{source}: all puzzles are equivalent"
    _, test_classes = random_split(len(index), share, rng, problem)
    test = np.isin(numbers, test_classes)
    return items.take(np.flatnonzero(~test)), items.take(np.flatnonzero(test))


def holdout_note(count: int, total: int, share: float, noun: str) -> list[str]:
    """A note that ``data.holdout`` has taken ``count`` of ``total`` examples; none if it has taken none."""
    if not count:
        return []
    return [f"{count:,} of {total:,} {noun} are held out for testing (data.holdout = {share:g}; --holdout 0: none)"]


def without(test: T, leaked: Sequence[int] | Rows, source: str) -> tuple[T, list[str]]:
    """The test set without the rows ``leaked``, which are equivalent to training puzzles, and a note with their number.

    Raises:
        UserError: no test puzzle is left.
    """
    if not len(leaked):
        return test, []
    if len(leaked) == len(test):
        raise UserError(f"{source}: every test puzzle is equivalent to a training puzzle")
    note = f"{len(leaked)} of {len(test)} test puzzles are equivalent to a training puzzle and were left out"
    return test.take(np.delete(np.arange(len(test)), leaked)), [note]


def sample(items: T, count: int | None, seed: int, what: str) -> tuple[T, list[str]]:
    """A random sample of ``count`` puzzles in their original order, and a note; all puzzles if ``count`` is None or
    there are not more. ``what`` names the set in the note."""
    if count is None or count >= len(items):
        return items, []
    rows = np.random.default_rng(seed % 2**64).choice(len(items), count, replace=False)
    return items.take(np.sort(rows)), [f"a random {count} of {len(items)} {what} puzzles"]


def random_split(count: int, share: float, rng: np.random.Generator, problem: str) -> tuple[Rows, Rows]:
    """Splits the indices below ``count`` at random: a ``share`` of them for testing, the others for training, at least
    one each. With a share of 0 all are for training.

    Returns:
        The training indices and the test indices, in random order.

    Raises:
        UserError: ``count`` is below 2 and the share is not 0. The message starts with ``problem``, the reason for
            that.
    """
    order = rng.permutation(count)
    if not share:
        return order, order[:0]
    if count < 2:
        raise UserError(f"{problem}: none can be held out for testing")
    held_out = min(max(1, round(share * count)), count - 1)
    return order[held_out:], order[:held_out]
