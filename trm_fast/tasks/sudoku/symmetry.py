"""Random symmetries of the rules, for many puzzles at once.

The group: relabellings of the digits, permutations of bands, of rows in a band, of stacks, of columns in a stack, and
transposition where boxes are square (sizes 4 and 9). Each puzzle gets its own element, drawn uniformly.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku.rules import BOXES, Grids, line_orders

GIVEN = np.uint8(16)


def random_images(questions: Grids, answers: Grids, size: int, rng: np.random.Generator) -> tuple[Grids, Grids]:
    """Each question and its answer, uint8 (N, size * size), under a random symmetry of their own.

    The answers must be complete and agree with the questions.
    """
    count = len(questions)
    # A question is its answer and a mask, so one byte a cell travels for both.
    cells = (answers | np.where(questions > 0, GIVEN, np.uint8(0))).reshape(count, size, size)
    rows, cols = (orders[rng.integers(len(orders), size=count)] for orders in _orders(size))
    turned = _reorder(_reorder(cells, rows).swapaxes(1, 2), cols)
    upright = turned.swapaxes(1, 2)
    if _square(size):
        transposed = rng.random(count) < 0.5
        upright = np.where(transposed[:, None, None], turned, upright)
    cells = upright.reshape(count, size * size)

    labels = np.zeros((count, 2 * GIVEN), dtype=np.uint8)  # by byte of a cell: first the blanks, then the givens
    labels[:, 1 : size + 1] = rng.permuted(np.tile(np.arange(1, size + 1, dtype=np.uint8), (count, 1)), axis=1)
    labels[:, GIVEN:] = labels[:, :GIVEN]
    images = labels.ravel().take(cells + labels.shape[1] * np.arange(count)[:, None])
    return images * (cells >= GIVEN), images


def random_symmetries(
    count: int, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Symmetries as tables: ``places`` (N, size * size) and ``digits`` (N, size + 1), blanks staying blank.

    The image of a grid g has ``digits[g[places[c]]]`` in its cell c.
    """
    cells = np.broadcast_to(np.arange(size * size).reshape(1, size, size), (count, size, size))
    rows, cols = (orders[rng.integers(len(orders), size=count)] for orders in _orders(size))
    turned = _reorder(_reorder(cells, rows).swapaxes(1, 2), cols)
    upright = turned.swapaxes(1, 2)
    if _square(size):
        upright = np.where(rng.random(count)[:, None, None] < 0.5, turned, upright)
    digits = np.zeros((count, size + 1), dtype=np.intp)
    digits[:, 1:] = rng.permuted(np.tile(np.arange(1, size + 1), (count, 1)), axis=1)
    return upright.reshape(count, size * size), digits


def _square(size: int) -> bool:
    rows, cols = BOXES[size]
    return rows == cols


@lru_cache
def _orders(size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The orders that rows may come in, and columns."""
    rows, cols = BOXES[size]
    return line_orders(size, rows), line_orders(size, cols)


def _reorder(grids: npt.NDArray[Any], orders: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """The rows of each grid (N, size, size) in an order (N, size) of its own."""
    count, size, _ = grids.shape
    rows = orders + size * np.arange(count)[:, None]
    return grids.reshape(count * size, size).take(rows, axis=0)
