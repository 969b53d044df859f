"""Parses a sudoku from text, and writes its solution in the same format."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.rules import Grids, conflict

BLANKS = ".0_"


def parse(text: str, size: int, where: str = "") -> Question:
    """A question from the text of a sudoku.

    A cell is a digit, or ``.``, ``0`` or ``_`` for a blank. Spaces, line breaks, ``|``, ``-``, ``+``, box-drawing
    characters and the punctuation of a JSON list of rows are ignored.

    Returns:
        The question with inputs int32 (size * size,): 1 for a blank, d + 1 for the digit d.

    Raises:
        UserError: the text is malformed, or the puzzle has no solution.
    """
    location = f"{where}: " if where else ""
    text = text.strip("\r\n")
    cells = cell_positions(text)
    for position in cells:
        if text[position] not in BLANKS + "123456789"[:size]:
            prefix = text[:position]
            spot = f"character {position - prefix.rfind(chr(10))}"
            if "\n" in text:
                spot = f"line {prefix.count(chr(10)) + 1}, {spot}"
            raise UserError(
                f"{location}{text[position]!r} ({spot}) is not a cell of a {size}x{size} puzzle: {allowed(size)}"
            )
    if len(cells) != size * size:
        raise UserError(f"{location}found {len(cells)} cells, expected {size * size}{other_size(len(cells), size)}")
    grid: Grids = np.array([0 if text[i] in BLANKS else int(text[i]) for i in cells], dtype=np.uint8)
    clash = conflict(grid, size)
    if clash:
        raise UserError(f"{location}the givens contradict each other: {clash}")
    if not engine.solve(grid[None], size)[1][0]:
        raise UserError(f"{location}the givens break the rules: there is no solution")
    return Question(text, grid.astype(np.int32) + 1, where)


def fill_in(text: str, answer: npt.NDArray[Any], size: int) -> str:
    """The text of a question with its cells replaced by the answer's tokens (size * size,). A token that is not a digit
    becomes ``.``, or 0 in a JSON list."""
    characters, blank = list(text), "0" if _is_json(text) else "."
    for position, token in zip(cell_positions(text), answer.tolist(), strict=True):
        characters[position] = str(token - 1) if 2 <= token <= size + 1 else blank
    return "".join(characters)


def cell_positions(text: str) -> list[int]:
    """The positions of the cells in a text: of all characters that are not separators."""
    separators = '[],"' if _is_json(text) else "|-+"
    return [i for i, c in enumerate(text) if not (c.isspace() or c in separators or "\u2500" <= c <= "\u257f")]


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("[")


def allowed(size: int) -> str:
    """Describes the characters that a cell can have, for error messages."""
    return f"write 1 to {size}, and . or 0 for a blank"


def other_size(cells: int, size: int) -> str:
    """A hint if the number of cells is that of another size; an empty string otherwise."""
    other = {16: 4, 36: 6, 81: 9}.get(cells)
    if other in (None, size):
        return ""
    return f" (this is a {other}x{other} puzzle, but the task is set to size {size}: set task.size to {other})"
