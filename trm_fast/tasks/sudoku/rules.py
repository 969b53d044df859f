"""The rules: which cells form a unit, and whether a grid obeys. A grid is its digits row by row, 0 for a blank."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.tables import cell_name

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by size."""

FEWEST_GIVENS = {4: 4, 6: 8, 9: 17}
"""The fewest givens with which a puzzle can have one solution."""

Grids = npt.NDArray[np.uint8]


@lru_cache
def units(size: int) -> npt.NDArray[np.intp]:
    """The cells of each row, column and box, in that order: (3 * size, size)."""
    rows, cols = BOXES[size]
    cells = np.arange(size * size).reshape(size, size)
    boxes = cells.reshape(size // rows, rows, size // cols, cols).swapaxes(1, 2).reshape(size, size)
    return np.concatenate([cells, cells.T, boxes])


def obeys(grids: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """Whether each complete grid (N, size * size) has every digit once in every unit; blanks and strangers fail."""
    rows, cols = BOXES[size]
    known = (grids >= 1) & (grids <= size)
    bits = np.where(known, np.left_shift(1, np.where(known, grids, 0), dtype=np.uint16, casting="unsafe"), np.uint16(0))
    bits = bits.reshape(-1, size // rows, rows, size // cols, cols)
    wanted = (1 << (size + 1)) - 2
    full = np.ones(len(bits), dtype=bool)
    for across in ((3, 4), (1, 2), (2, 4)):  # the two axes that a row, a column and a box run over
        full &= (np.bitwise_or.reduce(np.bitwise_or.reduce(bits, across[1]), across[0]) == wanted).all(axis=(1, 2))
    return full


def breaking(grid: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """The cells of one grid (size * size,) whose digit stands in another cell of a unit too."""
    marked = np.zeros(size * size, dtype=bool)
    for unit in units(size):
        digits = grid[unit]
        marked[unit] |= (digits > 0) & ((digits[:, None] == digits).sum(axis=1) > 1)
    return marked


def conflict(grid: npt.NDArray[Any], size: int) -> str | None:
    """The first two cells of one grid that contradict each other, in words with 1-based rows and columns."""
    names = [f"{kind} {i + 1}" for kind in ("row", "column", "box") for i in range(size)]
    for name, unit in zip(names, units(size), strict=True):
        first: dict[int, int] = {}
        for cell in unit.tolist():
            digit = int(grid[cell])
            if digit and digit in first:
                return f"{digit} stands twice in {name}: at {cell_name(first[digit], size)} and {cell_name(cell, size)}"
            first[digit] = cell
    return None
