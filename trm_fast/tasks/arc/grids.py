"""Encodes grids as tokens on a square canvas, and applies symmetries to many grids at a time.

This is the published encoding: token 0 is padding, 1 is the border below and to the right of a grid (unless the grid
reaches the edge of the canvas), and color c is token c + 2. Labels of padding are ignored, so a model may predict any
token there; decoding relies on the border alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import IGNORE, Array, IntArray

PADDING, BORDER, BLACK = 0, 1, 2
COLORS = 10
VOCABULARY = COLORS + BLACK
Grid = npt.NDArray[np.uint8]
"""Colors 0 to 9, (height, width)."""

Tokens = npt.NDArray[np.uint8]

TRANSPOSE, FLIP_ROWS, FLIP_COLUMNS = 4, 2, 1
"""Bits of a dihedral element: the grid is transposed, its rows are reversed, its columns are reversed."""

INVERSE = np.array([0, 1, 2, 3, 4, 6, 5, 7])
"""The inverse of each element. Without transposition it is the element itself; with it, the two flips are swapped."""


CHUNK = 4096
"""How many grids are transformed at a time. It bounds memory: the index tables are ten times as large as the grids."""


@dataclass(frozen=True)
class Symmetries:
    """N symmetries: dihedral elements 0 to 7, uint8 (N,), and the new color for each color, uint8 (N, 10)."""

    dihedral: npt.NDArray[np.uint8]
    colors: npt.NDArray[np.uint8]

    def take(self, rows: Any) -> Symmetries:
        """The symmetries at some indices."""
        return Symmetries(self.dihedral[rows], self.colors[rows])

    @classmethod
    def joined(cls, *parts: Symmetries) -> Symmetries:
        """The symmetries of several parts, in order."""
        return cls(np.concatenate([p.dihedral for p in parts]), np.concatenate([p.colors for p in parts]))

    def inverse(self) -> Symmetries:
        """The inverse of each symmetry."""
        back = np.argsort(self.colors, axis=1).astype(np.uint8)
        return Symmetries(INVERSE[self.dihedral].astype(np.uint8), back)


def encode(grids: Sequence[Grid | None], canvas: int) -> Tokens:
    """Tokens, uint8 (N, canvas * canvas), of N grids in the upper left corner. None becomes padding only.

    Examples:
        >>> encode([np.array([[5, 0]], dtype=np.uint8)], 3).reshape(3, 3).tolist()
        [[7, 2, 1], [1, 1, 0], [0, 0, 0]]
    """
    tokens = np.zeros((len(grids), canvas, canvas), dtype=np.uint8)
    for token, grid in zip(tokens, grids, strict=True):
        if grid is not None:
            height, width = grid.shape
            token[:height, :width] = grid + BLACK
            token[height : height + 1, :width] = BORDER
            token[:height, width : width + 1] = BORDER
    return tokens.reshape(len(grids), canvas * canvas)


def grid_sizes(tokens: Array, canvas: int) -> npt.NDArray[np.intp]:
    """Height and width, int64 (N, 2), of the grid in the upper left corner of tokens (N, canvas * canvas); 0 and 0
    if there is none.

    As in the published evaluation, the grid is the largest rectangle of colors from this corner.
    """
    colors = (tokens >= BLACK).reshape(-1, canvas, canvas)
    widths = np.minimum.accumulate(np.logical_and.accumulate(colors, axis=2).sum(axis=2), axis=1)
    areas = widths * np.arange(1, canvas + 1)
    last = areas.argmax(axis=1)
    width = widths[np.arange(len(last)), last]
    sizes: npt.NDArray[np.intp] = np.stack([np.where(width > 0, last + 1, 0), width], axis=1)
    return sizes


def decode(tokens: Array, canvas: int) -> Grid:
    """The grid in tokens (canvas * canvas,), without rows if there is none."""
    height, width = grid_sizes(tokens[None], canvas)[0]
    grid: Grid = (tokens.reshape(canvas, canvas)[:height, :width] - BLACK).astype(np.uint8)
    return grid


def images(
    tokens: Array,
    canvas: int,
    symmetries: Symmetries | None = None,
    sizes: npt.NDArray[np.intp] | None = None,
    offsets: npt.NDArray[np.intp] | None = None,
) -> Tokens:
    """Transforms and moves grids.

    Args:
        tokens: N grids in the upper left corner, (N, canvas * canvas).
        canvas: the side of the canvas.
        symmetries: one for each grid; by default the identity.
        sizes: height and width of each grid, (N, 2), if they are known.
        offsets: how far each grid moves down and to the right, (N, 2); by default 0.

    Returns:
        The grids with their borders and padding, uint8 (N, canvas * canvas).
    """
    if len(tokens) > CHUNK:
        slices = [slice(start, start + CHUNK) for start in range(0, len(tokens), CHUNK)]
        chosen = [None if symmetries is None else symmetries.take(rows) for rows in slices]
        parts = [[None if a is None else a[rows] for a in (sizes, offsets)] for rows in slices]
        return np.concatenate([images(tokens[r], canvas, c, *p) for r, c, p in zip(slices, chosen, parts, strict=True)])
    N, S = len(tokens), canvas
    sizes = grid_sizes(tokens, S) if sizes is None else sizes
    element = np.zeros(N, dtype=np.uint8) if symmetries is None else symmetries.dihedral
    transposed = (element & TRANSPOSE) > 0
    height, width = np.where(transposed, sizes.T[::-1], sizes.T)[:, :, None]
    row, column = np.broadcast_to(np.arange(S), (2, N, S)) - (0 if offsets is None else offsets.T[:, :, None])
    in_rows, in_columns = (row >= 0) & (row < height), (column >= 0) & (column < width)
    # The flips apply to the grid. If it is transposed, its rows become the image's columns.
    flipped = INVERSE[element][:, None]
    row_from = np.where(flipped & FLIP_ROWS, height - 1 - row, row)
    column_from = np.where(flipped & FLIP_COLUMNS, width - 1 - column, column)
    row_step, column_step = np.where(transposed, 1, S)[:, None], np.where(transposed, S, 1)[:, None]
    start = (S * S * np.arange(N))[:, None]
    positions = (np.where(in_rows, row_from * row_step, 0) + start)[:, :, None]
    positions = positions + np.where(in_columns, column_from * column_step, 0)[:, None, :]
    cells = np.ascontiguousarray(tokens, dtype=np.uint8).ravel().take(positions)
    if symmetries is not None:
        table = np.zeros((N, VOCABULARY), dtype=np.uint8)
        table[:, BLACK:] = symmetries.colors + BLACK
        cells = table.ravel().take(cells + (VOCABULARY * np.arange(N))[:, None, None])
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    border = ((row == height) & (height > 0))[:, :, None] & in_columns[:, None, :]
    border |= in_rows[:, :, None] & ((column == width) & (width > 0))[:, None, :]
    return (cells * inside + border).astype(np.uint8).reshape(N, S * S)


def tokens_to_labels(tokens: Tokens) -> IntArray:
    """Tokens as labels, int32: ``IGNORE`` on padding."""
    return np.where(tokens == PADDING, IGNORE, tokens.astype(np.int32))


def labels_to_tokens(labels: Array) -> Tokens:
    """The inverse of ``tokens_to_labels``."""
    return np.maximum(labels, PADDING).astype(np.uint8)
