"""What a cell holds: the published token ids, character i of ``CHARACTERS`` being i + 1 and 0 padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.uint8]
"""Mazes or answers, tokens (N, height * width)."""

CHARACTERS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)
LARGEST = 64
"""Rows and columns of the largest maze."""

MOVES = ((1, 0), (0, -1), (0, 1), (-1, 0))
"""Down, left, right, up: the order in which the published answers try a cell's neighbours."""


def as_lines(grids: npt.NDArray[Any]) -> list[str]:
    """Each grid as one line of characters; a token that is none becomes ``?``."""
    table = np.frombuffer(("?" + CHARACTERS).encode(), dtype=np.uint8)
    characters = table[np.where((grids < 0) | (grids > PATH), 0, grids)]
    return [row.tobytes().decode() for row in characters]


def overlaid(question: npt.NDArray[Any], answer: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """The maze of the question with the path of the answer, tokens (cells,); 0 where the answer changed the maze."""
    if answer is None:
        return question
    drawn = (question == FREE) & ((answer == FREE) | (answer == PATH))
    result: npt.NDArray[Any] = np.where(drawn, answer, np.where(question == answer, question, 0))
    return result
