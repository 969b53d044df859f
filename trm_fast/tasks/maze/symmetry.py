"""Rotations and reflections of a grid: eight if it is square, otherwise the four that keep its shape."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt


@lru_cache
def symmetries(shape: tuple[int, int]) -> npt.NDArray[np.intp]:
    """Tables of positions, int64 (count, cells), the identity first. Cell c of a grid's image is ``grid[table[c]]``."""
    height, width = shape
    cells = np.arange(height * width).reshape(shape)
    turns = [np.rot90(cells, k) for k in range(0, 4, 1 if height == width else 2)]
    return np.stack([image.ravel() for turn in turns for image in (turn, turn[:, ::-1])])
