"""The tokens of a maze, as in the published data set: character i of ``CHARACTERS`` is token i + 1, padding is 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.uint8]
"""Tokens of mazes or answers, uint8 (N, height * width)."""

CHARACTERS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)
MAX_SIDE = 64
"""The largest number of rows or columns."""

MOVES = ((1, 0), (0, -1), (0, 1), (-1, 0))
"""Down, left, right, up: the order in which the published search visits the neighbors of a cell."""


def as_lines(grids: npt.NDArray[Any]) -> list[str]:
    """Each grid (N, cells) as one line of characters, with ``?`` for an unknown token."""
    table = np.frombuffer(("?" + CHARACTERS).encode(), dtype=np.uint8)
    characters = table[np.where((grids < 0) | (grids > PATH), 0, grids)]
    return [row.tobytes().decode() for row in characters]


def overlaid(question: npt.NDArray[Any], answer: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """The question with the answer's path, tokens (cells,). Cells in which the answer changes the maze are 0."""
    if answer is None:
        return question
    drawn = (question == FREE) & ((answer == FREE) | (answer == PATH))
    result: npt.NDArray[Any] = np.where(drawn, answer, np.where(question == answer, question, 0))
    return result
