"""The symmetries of the rules, which are stated in ``group`` and nowhere else.

Augmentation and voting draw from a group, and canonical forms search it. So puzzles that a symmetry turns into each
other are one class for the split into training and test puzzles, whatever the group becomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from math import factorial
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku.rules import BOXES, Grids

GIVEN = np.uint8(16)
Lines = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Group:
    """Every symmetry is an order of the rows and one of the columns, then a transposition or none, and any relabelling
    of the digits.

    ``rows``, ``columns``: (orders, size), which line comes to each position; each list is closed under composition.
    ``transposes``: whether transposed grids belong to the group; the orders of both are the same then.
    """

    size: int
    rows: Lines
    columns: Lines
    transposes: bool

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns) * (1 + self.transposes) * factorial(self.size)


@lru_cache
def group(size: int) -> Group:
    """All symmetries of a size: bands, rows in a band, stacks and columns in a stack change places, and where boxes are
    square, rows and columns do."""
    box_rows, box_columns = BOXES[size]
    return Group(size, _line_orders(size, box_rows), _line_orders(size, box_columns), box_rows == box_columns)


@lru_cache
def _line_orders(size: int, together: int) -> Lines:
    """Every order of ``size`` lines in which each ``together`` of them stay side by side."""
    inside = product(*(permutations(range(start, start + together)) for start in range(0, size, together)))
    orders = [[line for lines in order for line in lines] for parts in inside for order in permutations(parts)]
    return np.array(orders, dtype=np.uint8)


@dataclass(frozen=True)
class Symmetries:
    """N of a group: ``rows`` and ``columns`` (N, size), which are transposed (N,), and what each digit becomes
    (N, size + 1), a blank staying one."""

    group: Group
    rows: Lines
    columns: Lines
    transposed: npt.NDArray[np.bool_]
    digits: Lines

    @classmethod
    def draw(cls, count: int, size: int, rng: np.random.Generator) -> Symmetries:
        """Drawn uniformly and independently."""
        all_ = group(size)
        rows, columns = (orders[rng.integers(len(orders), size=count)] for orders in (all_.rows, all_.columns))
        transposed = rng.random(count) < 0.5 if all_.transposes else np.zeros(count, dtype=np.bool_)
        digits = np.zeros((count, size + 1), dtype=np.uint8)
        digits[:, 1:] = rng.permuted(np.tile(np.arange(1, size + 1, dtype=np.uint8), (count, 1)), axis=1)
        return cls(all_, rows, columns, transposed, digits)

    def moved(self, grids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The cells (N, size * size) in their new places."""
        count, size = len(grids), self.group.size
        by_columns = _reorder(grids.reshape(count, size, size), self.rows).swapaxes(1, 2)
        flipped = _reorder(by_columns, self.columns)
        image = flipped.swapaxes(1, 2)
        if self.group.transposes:
            image = np.where(self.transposed[:, None, None], flipped, image)
        return image.reshape(count, size * size)


def _reorder(grids: npt.NDArray[Any], orders: Lines) -> npt.NDArray[Any]:
    """The rows of each grid (N, size, size) in an order (N, size) of its own."""
    count, size, _ = grids.shape
    rows = orders + size * np.arange(count)[:, None]
    return grids.reshape(count * size, size).take(rows, axis=0)


def random_images(questions: Grids, answers: Grids, size: int, rng: np.random.Generator) -> tuple[Grids, Grids]:
    """Each question and its answer, uint8 (N, size * size), under a random symmetry of their own.

    The answers must be complete and agree with the questions.
    """
    drawn = Symmetries.draw(len(questions), size, rng)
    # A question is its answer and a mask, so one byte a cell travels for both.
    cells = drawn.moved(answers | np.where(questions > 0, GIVEN, np.uint8(0)))
    labels = np.zeros((len(cells), 2 * GIVEN), dtype=np.uint8)  # by byte of a cell: first the blanks, then the givens
    labels[:, : size + 1] = labels[:, GIVEN : GIVEN + size + 1] = drawn.digits
    images = labels.ravel().take(cells + labels.shape[1] * np.arange(len(cells))[:, None])
    return images * (cells >= GIVEN), images


def random_symmetries(
    count: int, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Symmetries as tables: ``places`` (N, size * size) and ``digits`` (N, size + 1), blanks staying blank.

    The image of a grid g has ``digits[g[places[c]]]`` in its cell c.
    """
    drawn = Symmetries.draw(count, size, rng)
    places = drawn.moved(np.broadcast_to(np.arange(size * size), (count, size * size)))
    return places, drawn.digits.astype(np.intp)
