"""The rules of sudoku. A grid is an array of digits, row by row, 0 for a blank."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.tables import cell_name

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box for each size."""

MIN_GIVENS = {4: 4, 6: 8, 9: 17}
"""The smallest number of givens with which a puzzle can have exactly one solution, by size."""

Grids = npt.NDArray[np.uint8]


@lru_cache
def units(size: int) -> npt.NDArray[np.intp]:
    """The cells of each unit, int64 (3 * size, size): rows, then columns, then boxes."""
    rows, cols = BOXES[size]
    cells = np.arange(size * size).reshape(size, size)
    boxes = cells.reshape(size // rows, rows, size // cols, cols).swapaxes(1, 2).reshape(size, size)
    return np.concatenate([cells, cells.T, boxes])


def obeys(grids: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """Whether each grid (N, size * size) is complete and has every digit once in each unit, bool (N,)."""
    rows, cols = BOXES[size]
    valid = (grids >= 1) & (grids <= size)
    bits = np.where(valid, np.left_shift(1, np.where(valid, grids, 0), dtype=np.uint16, casting="unsafe"), np.uint16(0))
    bits = bits.reshape(-1, size // rows, rows, size // cols, cols)
    all_digits = (1 << (size + 1)) - 2
    full = np.ones(len(bits), dtype=bool)
    for across in ((3, 4), (1, 2), (2, 4)):  # the two axes of a row, a column and a box
        full &= (np.bitwise_or.reduce(np.bitwise_or.reduce(bits, across[1]), across[0]) == all_digits).all(axis=(1, 2))
    return full


def breaking(grid: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """The cells of a grid (size * size,) whose digit occurs twice in a unit, bool (size * size,)."""
    marked = np.zeros(size * size, dtype=bool)
    for unit in units(size):
        digits = grid[unit]
        marked[unit] |= (digits > 0) & ((digits[:, None] == digits).sum(axis=1) > 1)
    return marked


def conflict(grid: npt.NDArray[Any], size: int) -> str | None:
    """The first two cells of a grid (size * size,) that contradict each other, in words; None if there are none."""
    names = [f"{kind} {i + 1}" for kind in ("row", "column", "box") for i in range(size)]
    for name, unit in zip(names, units(size), strict=True):
        first: dict[int, int] = {}
        for cell in unit.tolist():
            digit = int(grid[cell])
            if digit and digit in first:
                return f"{digit} occurs twice in {name}: at {cell_name(first[digit], size)} and {cell_name(cell, size)}"
            first[digit] = cell
    return None
