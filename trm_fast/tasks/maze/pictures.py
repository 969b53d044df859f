"""Draws and reads pictures of mazes: each cell is a square block whose color stands for its token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.maze.cells import FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.pictures import Picture

COLORS = np.array(
    [[255, 0, 255], [0, 0, 0], [255, 255, 255], [30, 160, 60], [215, 40, 40], [60, 120, 230]], dtype=np.uint8
)
"""The color of each token; magenta stands for an unknown token."""

UNCLEAR = 0
DARK, BRIGHT = 64, 192


def paint(tokens: npt.NDArray[Any], shape: tuple[int, int]) -> Picture:
    """A picture of tokens (cells,), RGB uint8 (height, width, 3), with blocks of at least 4 pixels."""
    colors = np.where((tokens >= WALL) & (tokens <= PATH), tokens, UNCLEAR)
    block = max(4, 480 // max(shape))
    return COLORS[colors.reshape(shape)].repeat(block, axis=0).repeat(block, axis=1)


def parse_picture(picture: Picture, shape: tuple[int, int], location: str) -> list[list[int]]:
    """The rows of tokens in a picture. Its cells must be square blocks of one or more pixels in clear colors.

    A black (or nearly black) block is a wall, a white one free, a green one the start, a red one the goal, and a blue
    or gray one a cell of a path. Error messages start with ``location``.

    Raises:
        UserError: the picture has another color, its blocks form no grid, or the grid has another size.
    """
    tokens = _classify(picture)
    if (tokens == UNCLEAR).any():
        y, x = (int(i) for i in np.argwhere(tokens == UNCLEAR)[0])
        color = "#" + bytes(picture[y, x].tolist()).hex()
        raise UserError(
            f"{location}the color {color} (pixel row {y + 1}, column {x + 1}) has no meaning in a maze: walls are "
            "black, free cells white, the start green, the goal red, a path blue or gray"
        )
    # Colors change only between cells, so the block size divides the position of every change.
    largest_block = int(np.gcd.reduce(_changes(tokens) + _changes(tokens.T)))
    rows, cols = tokens.shape
    block = rows // shape[0]
    if not block or (rows, cols) != (shape[0] * block, shape[1] * block) or largest_block % block:
        raise UserError(
            f"{location}this picture of {rows}x{cols} pixels shows {rows // largest_block}x{cols // largest_block} "
            f"cells of {largest_block} pixels, but the model takes {shape[0]}x{shape[1]} cells (task.size). Each "
            "cell must be a square block of one color, and so must each wall: lines between cells are not read"
        )
    result: list[list[int]] = tokens[::block, ::block].tolist()
    return result


def _classify(picture: Picture) -> npt.NDArray[np.uint8]:
    values = picture.astype(np.int32)
    largest, smallest = values.max(axis=2), values.min(axis=2)
    middle = values.sum(axis=2) - largest - smallest
    saturated = (largest >= DARK) & (2 * middle < largest + largest // 4)  # one of red, green and blue dominates
    tokens = np.full(largest.shape, UNCLEAR, dtype=np.uint8)
    tokens[saturated] = np.array([GOAL, START, PATH], dtype=np.uint8)[values.argmax(axis=2)[saturated]]
    tokens[~saturated & (largest - smallest < DARK)] = PATH  # gray; overwritten below where it is nearly black or white
    tokens[largest < DARK] = WALL
    tokens[smallest >= BRIGHT] = FREE
    return tokens


def _changes(tokens: npt.NDArray[np.uint8]) -> list[int]:
    """The rows at which a cell differs from the cell above, and the number of rows."""
    return [int(i) + 1 for i in np.flatnonzero((tokens[1:] != tokens[:-1]).any(axis=1))] + [len(tokens)]
