"""Reads and writes files of sudokus: tables of questions and answers, and any format with questions only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.sudoku.cells import BLANKS, allowed, other_size, spreadsheet_hint
from trm_fast.tasks.sudoku.puzzles import Puzzles
from trm_fast.tasks.sudoku.rules import Grids, conflict, obeys
from trm_fast.tasks.sudoku.text import find, read_all
from trm_fast.tasks.tables import (
    Table,
    cell_name,
    decode_grids,
    decode_ratings,
    read_cells,
    read_table,
    write_table,
)
from trm_fast.tasks.values import is_value, read_puzzles

BAD = 255


def read(path: str | Path, size: int) -> Puzzles:
    """The puzzles of a CSV file, in order.

    Raises:
        UserError: a row is malformed, or its answer breaks the rules or differs from a given. The message names file
            and line.
    """
    return decode_table(read_table(path), size)


def decode_table(table: Table, size: int) -> Puzzles:
    """The puzzles of a table; a wrong row is a UserError as in ``read``."""

    def wrong(grids: Grids, solved: Grids) -> npt.NDArray[np.bool_]:
        broken = (grids == BAD).any(axis=1) | ~obeys(solved, size)
        return broken | ((grids > 0) & (grids != solved)).any(axis=1)

    fault = partial(_describe_fault, size=size)
    grids, solved = decode_grids(table.mapped(partial(_as_line, size)), _characters(size), size * size, wrong, fault)
    return Puzzles(size, grids, solved, decode_ratings(table))


def questions(path: str | Path, size: int) -> Iterator[Question]:
    """The puzzles of a file in any format that ``text.read_all`` reads, or of an array that numpy saved.

    Raises:
        UserError: the file cannot be read or has no puzzles, or a puzzle is malformed.
    """
    has_puzzles = False
    for question in read_all(read_puzzles(path), size, str(path), is_file=True):
        has_puzzles = True
        yield question
    if not has_puzzles:
        raise UserError(f"{path} has no puzzles")


def _as_line(size: int, text: str, where: str) -> str:
    """The cells of a puzzle in any format as one line; the text itself if it is a line without spaces or commas."""
    text = text.strip()
    if len(text) == size * size or not (is_value(text) or re.search(r"[\s,;|]", text)):
        return text
    puzzles = list(find(text, size, where))
    if len(puzzles) != 1:
        raise UserError(f"{where}: found {len(puzzles)} puzzles, expected one")
    return as_lines(puzzles[0].grid(size)[None])[0]


def write(path: str | Path, puzzles: Puzzles, source: str = "trm_fast") -> None:
    """Writes puzzles as a CSV file that ``read`` reads; the columns are source, question, answer and, where known,
    rating."""
    write_table(path, as_lines(puzzles.questions), as_lines(puzzles.answers), puzzles.ratings, source)


def as_lines(grids: Grids) -> list[str]:
    """Each grid (N, size * size) as a line of digits, with ``.`` for a blank."""
    characters = np.frombuffer(b".123456789", dtype=np.uint8)[grids]
    return [row.tobytes().decode() for row in characters]


def _characters(size: int) -> Grids:
    """The digit of each Latin-1 character, 0 for a blank and ``BAD`` for any other character, (256,)."""
    table = np.full(256, BAD, dtype=np.uint8)
    table[[ord(c) for c in BLANKS]] = 0
    table[ord("1") : ord("1") + size] = np.arange(1, size + 1)
    return table


def _describe_fault(question: str, answer: str, size: int) -> str:
    """Describes what is wrong with a row."""
    for name, cells in (("question", question), ("answer", answer)):
        if not cells.strip():
            return f"the {name} is missing"
        if len(cells) != size * size:
            hint = other_size(len(cells), size) or spreadsheet_hint(cells, size * size)
            return f"the {name} has {len(cells)} characters, expected {size * size}{hint}"
    givens, solved = read_cells([question, answer], _characters(size), size * size)
    for name, cells, digits in (("question", question, givens), ("answer", answer, solved)):
        if (digits == BAD).any():
            cell = int((digits == BAD).argmax())
            return f"{cells[cell]!r} in the {name} ({cell_name(cell, size)}) is not a cell: {allowed(size)}"
    if (solved == 0).any():
        return f"the answer leaves {cell_name(int((solved == 0).argmax()), size)} blank"
    clash = conflict(solved, size)
    if clash:
        return f"the answer breaks the rules: {clash}"
    cell = int(((givens > 0) & (givens != solved)).argmax())
    return f"the answer has {solved[cell]} at {cell_name(cell, size)}, where the question has {givens[cell]}"
