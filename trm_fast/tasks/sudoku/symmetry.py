"""The symmetries of sudoku, all defined by ``group``.

Augmentation and voting draw symmetries from the group, and canonical forms are minimal over it. So the division into
training and test puzzles always respects the same symmetries.
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

GIVEN_BIT = np.uint8(16)
Lines = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Group:
    """All symmetries of one size: an order of rows, an order of columns, a transposition or none, and any relabeling
    of the digits.

    Attributes:
        size: digits, rows and columns.
        rows: all orders of rows, uint8 (orders, size): the row that moves to each position. They are closed under
            composition.
        columns: all orders of columns, likewise.
        transposes: whether the group contains the transposition. The orders of rows and columns are then equal.
    """

    size: int
    rows: Lines
    columns: Lines
    transposes: bool

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns) * (1 + self.transposes) * factorial(self.size)


@lru_cache
def group(size: int) -> Group:
    """The symmetries of a size: permutations of the bands, of the rows in a band, of the stacks and of the columns in a
    stack, and with square boxes the transposition."""
    box_rows, box_columns = BOXES[size]
    return Group(size, _line_orders(size, box_rows), _line_orders(size, box_columns), box_rows == box_columns)


@lru_cache
def _line_orders(size: int, group_size: int) -> Lines:
    """Every order of ``size`` lines that keeps each group of ``group_size`` lines adjacent."""
    inside = product(*(permutations(range(start, start + group_size)) for start in range(0, size, group_size)))
    orders = [[line for lines in order for line in lines] for parts in inside for order in permutations(parts)]
    return np.array(orders, dtype=np.uint8)


@dataclass(frozen=True)
class Symmetries:
    """N symmetries of a group.

    ``rows`` and ``columns`` are orders, uint8 (N, size). ``transposed`` is bool (N,). ``digits`` is the new digit for
    each digit, uint8 (N, size + 1); a blank stays a blank.
    """

    group: Group
    rows: Lines
    columns: Lines
    transposed: npt.NDArray[np.bool_]
    digits: Lines

    @classmethod
    def draw(cls, count: int, size: int, rng: np.random.Generator) -> Symmetries:
        """Symmetries drawn uniformly and independently."""
        symmetries = group(size)
        lines = (symmetries.rows, symmetries.columns)
        rows, columns = (orders[rng.integers(len(orders), size=count)] for orders in lines)
        transposed = rng.random(count) < 0.5 if symmetries.transposes else np.zeros(count, dtype=np.bool_)
        digits = np.zeros((count, size + 1), dtype=np.uint8)
        digits[:, 1:] = rng.permuted(np.tile(np.arange(1, size + 1, dtype=np.uint8), (count, 1)), axis=1)
        return cls(symmetries, rows, columns, transposed, digits)

    def moved(self, grids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The cells of N grids (N, size * size) at their new positions; digits are not relabeled."""
        count, size = len(grids), self.group.size
        by_columns = _reorder(grids.reshape(count, size, size), self.rows).swapaxes(1, 2)
        flipped = _reorder(by_columns, self.columns)
        image = flipped.swapaxes(1, 2)
        if self.group.transposes:
            image = np.where(self.transposed[:, None, None], flipped, image)
        return image.reshape(count, size * size)


def _reorder(grids: npt.NDArray[Any], orders: Lines) -> npt.NDArray[Any]:
    """The rows of each grid (N, size, size), each in its own order (N, size)."""
    count, size, _ = grids.shape
    rows = orders + size * np.arange(count)[:, None]
    return grids.reshape(count * size, size).take(rows, axis=0)


def random_images(questions: Grids, answers: Grids, size: int, rng: np.random.Generator) -> tuple[Grids, Grids]:
    """A random symmetric image of each puzzle: questions and answers, uint8 (N, size * size) each.

    The answers must be complete and agree with the questions.
    """
    drawn = Symmetries.draw(len(questions), size, rng)
    # A question is its answer and a mask of givens, so one byte for each cell encodes both.
    cells = drawn.moved(answers | np.where(questions > 0, GIVEN_BIT, np.uint8(0)))
    # Indexed by a cell's byte: blanks first, then givens.
    labels = np.zeros((len(cells), 2 * GIVEN_BIT), dtype=np.uint8)
    labels[:, : size + 1] = labels[:, GIVEN_BIT : GIVEN_BIT + size + 1] = drawn.digits
    images = labels.ravel().take(cells + labels.shape[1] * np.arange(len(cells))[:, None])
    return images * (cells >= GIVEN_BIT), images


def random_symmetries(
    count: int, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Random symmetries as tables: ``positions`` int64 (N, size * size) and ``digits`` int64 (N, size + 1).

    Cell c of a grid's image has the digit ``digits[grid[positions[c]]]``.
    """
    drawn = Symmetries.draw(count, size, rng)
    positions = drawn.moved(np.broadcast_to(np.arange(size * size), (count, size * size)))
    return positions, drawn.digits.astype(np.intp)
