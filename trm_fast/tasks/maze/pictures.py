"""A maze as a picture: blocks of pixels, walls black, free cells white, start green, goal red, path blue."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.maze.cells import FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.pictures import Picture

COLOURS = np.array(
    [[255, 0, 255], [0, 0, 0], [255, 255, 255], [30, 160, 60], [215, 40, 40], [60, 120, 230]], dtype=np.uint8
)
"""By token; magenta is none of them."""

UNCLEAR = 0
DARK, BRIGHT = 64, 192


def paint(tokens: npt.NDArray[Any], shape: tuple[int, int]) -> Picture:
    """Tokens (cells,) as a picture of blocks, large enough to look at."""
    known = np.where((tokens >= WALL) & (tokens <= PATH), tokens, UNCLEAR)
    block = max(4, 480 // max(shape))
    return COLOURS[known.reshape(shape)].repeat(block, axis=0).repeat(block, axis=1)


def tokens_of_picture(picture: Picture, shape: tuple[int, int], at: str) -> list[list[int]]:
    """Rows of tokens from a picture whose cells are square blocks of pixels (one pixel at least) in clear colours.

    Black (or nearly) is a wall, white free, green the start, red the goal, blue or grey a path. UserError for another
    colour, for blocks that don't make up a grid, and for a grid of another size.
    """
    tokens = _classify(picture)
    if (tokens == UNCLEAR).any():
        y, x = (int(i) for i in np.argwhere(tokens == UNCLEAR)[0])
        colour = "#" + bytes(picture[y, x].tolist()).hex()
        raise UserError(
            f"{at}the colour {colour} (pixel row {y + 1}, column {x + 1}) is none of a maze's: walls are black, free "
            "cells white, the start green, the goal red, a path blue or grey"
        )
    # Cells end where colours change, so the true block divides every such place.
    grid = int(np.gcd.reduce(_changes(tokens) + _changes(tokens.T)))
    rows, cols = tokens.shape
    block = rows // shape[0]
    if not block or (rows, cols) != (shape[0] * block, shape[1] * block) or grid % block:
        raise UserError(
            f"{at}this picture of {rows}x{cols} pixels shows {rows // grid}x{cols // grid} cells of {grid} pixels, "
            f"but the model takes {shape[0]}x{shape[1]} cells (task.size)"
        )
    result: list[list[int]] = tokens[::block, ::block].tolist()
    return result


def _classify(picture: Picture) -> npt.NDArray[np.uint8]:
    values = picture.astype(np.int32)
    most, least = values.max(axis=2), values.min(axis=2)
    middle = values.sum(axis=2) - most - least
    clear = (most >= DARK) & (2 * middle < most + most // 4)  # one of the three stands out
    tokens = np.full(most.shape, UNCLEAR, dtype=np.uint8)
    tokens[clear] = np.array([GOAL, START, PATH], dtype=np.uint8)[values.argmax(axis=2)[clear]]
    tokens[~clear & (most - least < DARK)] = PATH  # grey, if not darker or brighter
    tokens[most < DARK] = WALL
    tokens[least >= BRIGHT] = FREE
    return tokens


def _changes(tokens: npt.NDArray[np.uint8]) -> list[int]:
    """The rows where something changes, and the last one's end."""
    return [int(i) + 1 for i in np.flatnonzero((tokens[1:] != tokens[:-1]).any(axis=1))] + [len(tokens)]
