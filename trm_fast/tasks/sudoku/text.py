"""Reads sudokus from text in any format that people have, and writes a solution in the format of its puzzle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.sudoku import containers, values
from trm_fast.tasks.sudoku.cells import Spot, read_words
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.grids import GridReader, GridText
from trm_fast.tasks.sudoku.lines import is_printed_list
from trm_fast.tasks.sudoku.rules import Grids, conflict
from trm_fast.tasks.tables import cell_name, question_column
from trm_fast.tasks.values import is_value, parse_value, values_of

_PLAIN = frozenset("0123456789._?xX")
"""Digits and the blanks that are no part of a frame or a list."""


def parse(text: str, size: int, where: str = "") -> Question:
    """The question in the text of one sudoku, in any format that ``read_all`` reads.

    Returns:
        The question with inputs int32 (size * size,): 1 for a blank, d + 1 for the digit d.

    Raises:
        UserError: the text is malformed or has several puzzles, or the puzzle has no solution.
    """
    prefix = f"{where}: " if where else ""
    questions = list(read_all(text, size, where))
    if not questions:
        raise UserError(f"{prefix}found 0 cells, expected {size * size}")
    if len(questions) > 1:
        raise UserError(f"{prefix}found {len(questions)} puzzles, expected one: save them to a file to solve all")
    return questions[0]


class Puzzle(NamedTuple):
    """A puzzle in a text: its own text, the words of its cells, where it is, and where each of its cells is."""

    text: str
    words: list[str]
    where: str
    spot: Spot

    def grid(self, size: int) -> Grids:
        """The digits, uint8 (size * size,), 0 for a blank.

        Raises:
            UserError: a word is not a cell, or blanks are written in several ways.
        """
        return read_words(self.words, size, f"{self.where}: " if self.where else "", self.spot)


def read_all(text: str, size: int, where: str = "", *, is_file: bool = False) -> Iterator[Question]:
    """The questions of the puzzles that ``find`` finds, in order.

    Raises:
        UserError: as in ``find``, or a puzzle has no solution.
    """
    for puzzle in find(text, size, where, is_file=is_file):
        grid = puzzle.grid(size)
        if not engine.solve(grid[None], size)[1][0]:
            prefix = f"{puzzle.where}: " if puzzle.where else ""
            if clash := conflict(grid, size):
                raise UserError(f"{prefix}the givens contradict each other: {clash}")
            raise UserError(f"{prefix}the givens break the rules: there is no solution")
        yield Question(puzzle.text, grid.astype(np.int32) + 1, puzzle.where)


def find(text: str, size: int, where: str = "", *, is_file: bool = False) -> Iterator[Puzzle]:
    """The puzzles in a text, in order.

    A cell is a digit, or ``. 0 _ - * ? x``, -1, null or an empty field for a blank; all blanks of a puzzle are written
    alike. The text has lines of cells or grids with or without a frame, separated by spaces, commas or tabs; or it is
    JSON or a Python list (rows, cells, objects with a key such as puzzle, JSON Lines), a table with a column of
    questions, or a file of a sudoku program (.sdk, .sdm, .ss, the XML of OpenSudoku).

    Args:
        text: the text.
        size: rows, columns and digits.
        where: the file or another place that the text comes from, for error messages.
        is_file: whether the lines of the text are those of the file ``where``.

    Raises:
        UserError: a puzzle is malformed. The message has file and line, or the cell.
    """
    if text.lstrip().startswith("<"):
        for data, location in containers.opensudoku(text, where):
            yield from find(data, size, location)
    elif containers.has_sections(text):
        yield from _find_grids(containers.puzzle_sections(text, where), size, where, is_file)
    elif _is_json(text, size):
        for location, value in values_of(text, where):
            for puzzle in values.find(value, size, location):
                shown = puzzle.value if isinstance(puzzle.value, str) else json.dumps(puzzle.value)
                yield Puzzle(shown, puzzle.words, puzzle.where, partial(cell_name, width=size))
    elif column := question_column(text, where, alone=False):
        for data, location in column:
            yield _find_one(data, size, location)
    else:
        yield from _find_grids(text, size, where, is_file)


def fill_in(text: str, answer: npt.NDArray[Any], size: int) -> str:
    """The text of a question with its cells replaced by the answer's tokens (size * size,). A token that is not a digit
    becomes ``.``, or 0 in a list of numbers."""
    digits = [str(token - 1) if 2 <= token <= size + 1 else "." for token in answer.tolist()]
    if _is_json(text, size):
        return json.dumps(values.filled(parse_value(text, ""), digits, size))
    (grid,) = GridReader(text, size).find()
    for cell, digit in reversed(list(zip(grid.cells, digits, strict=True))):
        text = text[: cell.start] + digit + text[cell.end :]
    return text


def _find_grids(text: str, size: int, where: str, is_file: bool) -> Iterator[Puzzle]:
    lines = re.split(r"\r\n|\r|\n", text) if is_file else []
    if lines and all(_is_plain(line, size) or not line for line in lines):
        for number, line in enumerate(lines, 1):
            if line:
                yield _of_plain(line, f"{where}:{number}")
        return
    reader = GridReader(text, size, where, is_file)
    for grid in reader.find():
        location = f"{where}:{grid.line}" if is_file else where
        yield Puzzle(grid.text, [cell.word for cell in grid.cells], location, partial(_spot_of_cell, reader, grid))


def _find_one(text: str, size: int, where: str) -> Puzzle:
    """The only puzzle in a field of a table."""
    if _is_plain(text, size):
        return _of_plain(text, where)
    puzzles = list(find(text, size, where))
    if len(puzzles) != 1:
        raise UserError(f"{where}: found {len(puzzles)} puzzles, expected one")
    return puzzles[0]


def _is_plain(text: str, size: int) -> bool:
    """Whether a text is a line of cells without anything else, as most are; these need no search."""
    return len(text) == size * size and _PLAIN.issuperset(text)


def _of_plain(line: str, where: str) -> Puzzle:
    return Puzzle(line, list(line), where, lambda index: f"character {index + 1}")


def _spot_of_cell(reader: GridReader, grid: GridText, index: int) -> str:
    return reader.spot(grid.cells[index], grid.line)


def _is_json(text: str, size: int) -> bool:
    """Whether a text is read as a value. Lists that are neither JSON nor Python's, and rows in JSON on a line each, are
    read like a grid."""
    if not is_value(text) or not is_printed_list(text):
        return is_value(text)
    with suppress(UserError):
        parse_value(text, "")
        return True
    with suppress(ValueError, RecursionError):
        first = json.loads(text.strip().partition("\n")[0])
        return any(isinstance(cell, list | dict) for cell in first) or len(first) == size**2
    return False
