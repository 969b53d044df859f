"""Reads and writes files of sudokus: CSV with questions and answers, and text with questions only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.files import read_text, split_lines
from trm_fast.tasks.sudoku.puzzles import Puzzles
from trm_fast.tasks.sudoku.rules import Grids, conflict, obeys
from trm_fast.tasks.sudoku.text import BLANKS, allowed, cell_positions, other_size, parse
from trm_fast.tasks.tables import (
    Table,
    cell_name,
    decode_grids,
    decode_ratings,
    question_column,
    read_cells,
    read_table,
    write_table,
)

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
    grids, solved = decode_grids(table, _characters(size), size * size, wrong, fault)
    return Puzzles(size, grids, solved, decode_ratings(table))


def questions(path: str | Path, size: int) -> Iterator[Question]:
    """The puzzles of a CSV file with a column question, or of a text: one on each line, or one grid on several lines.

    Empty lines and lines that start with ``#`` are skipped.

    Raises:
        UserError: the file cannot be read or has no puzzles, or a puzzle is malformed.
    """
    lines = ["\n" if line.lstrip().startswith("#") else f"{line}\n" for line in split_lines(read_text(path))]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} has no puzzles")
    start, first = numbered[0]
    if column := question_column(lines, path):
        yield from (parse(text, size, where) for text, where in column)
    elif len(cell_positions(first)) > size:
        yield from (parse(line, size, f"{path}:{number}") for number, line in numbered)
    else:
        yield parse("".join(line for _, line in numbered), size, f"{path}:{start}")


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
            return f"the {name} has {len(cells)} characters, expected {size * size}{other_size(len(cells), size)}"
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
