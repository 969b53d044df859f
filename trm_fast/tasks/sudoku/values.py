"""Finds sudokus in values, which come from JSON or Python: lists of rows, of cells or of puzzles, and objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku.cells import is_cell, not_a_cell, other_size, word_of
from trm_fast.tasks.sudoku.grids import GridReader
from trm_fast.tasks.sudoku.lines import Cell, lines_of
from trm_fast.tasks.tables import cell_name
from trm_fast.tasks.values import question_in


class ValuePuzzle(NamedTuple):
    """A puzzle in a value: the value of this puzzle alone, the words of its cells, and where it is."""

    value: Any
    words: list[str]
    where: str


def find(value: Any, size: int, where: str) -> Iterator[ValuePuzzle]:
    """The puzzles in a value: in a text, a list of rows (texts or lists), a list of all cells, an object with a key
    such as puzzle, or a list of such puzzles.

    Raises:
        UserError: it is something else, or a row or puzzle has the wrong number of cells.
    """
    prefix = f"{where}: " if where else ""
    value = question_in(value, where)
    if isinstance(value, str):
        for grid in GridReader(value, size, where).find():
            yield ValuePuzzle(grid.text, [cell.word for cell in grid.cells], where)
        return
    if not isinstance(value, list) or not value:
        raise UserError(f"{prefix}a puzzle is a text or a list of rows, not {json.dumps(value)[:40]}")
    if not _is_one_puzzle(value, size):
        if _is_one_hot(value, size):
            raise UserError(f"{prefix}the array has a 0 or 1 for each cell and digit: write one digit for each cell")
        for number, item in enumerate(value, 1):
            location = f"{where}, puzzle {number}" if where else f"puzzle {number}"
            if not isinstance(item, str | list | dict):
                raise UserError(f"{location}: a puzzle is a text or a list of rows, not {json.dumps(item)[:40]}")
            yield from find(item, size, location)
        return
    yield ValuePuzzle(value, _words(value, size, prefix), where)


def filled(value: Any, digits: list[str], size: int) -> Any:
    """The value of one puzzle with its cells replaced by ``digits``: text where the cell is a text, else a number."""
    remaining = iter(digits)

    def fill(item: Any) -> Any:
        if isinstance(item, list):
            return [fill(part) for part in item]
        if isinstance(item, str) and not is_cell(item.strip()):
            cells = _cells_of(item, size)
            for cell, digit in reversed([(cell, next(remaining)) for cell in cells]):
                item = item[: cell.start] + digit + item[cell.end :]
            return item
        digit = next(remaining)
        return digit if isinstance(item, str) else int(digit) if digit.isdecimal() else 0

    return fill(value)


def _is_one_puzzle(value: list[Any], size: int) -> bool:
    """Whether a list is one puzzle, by its first item; otherwise it is a list of puzzles."""
    first = value[0]
    if isinstance(first, list):
        holds_rows = bool(first) and all(isinstance(cell, list | dict) or _is_row(cell) for cell in first)
        return not holds_rows and len(first) != size**2
    return not isinstance(first, dict) and not (_is_row(first) and GridReader(first, size).is_whole())


def _is_one_hot(value: list[Any], size: int) -> bool:
    """Whether a value is an array (size, size, size) of 0 and 1, which is one puzzle and not many."""
    rows = [row for plane in value if isinstance(plane, list) for row in plane if isinstance(row, list)]
    if len(value) != size or len(rows) != size**2 or any(len(row) != size for row in rows):
        return False
    return all(isinstance(cell, int | float) and cell in (0, 1) for row in rows for cell in row)


def _is_row(item: Any) -> bool:
    return isinstance(item, str) and not is_cell(item.strip())


def _cells_of(row: str, size: int) -> list[Cell]:
    lines = list(lines_of(row, size))
    return lines[0].cells() if len(lines) == 1 else []


def _words(value: list[Any], size: int, prefix: str) -> list[str]:
    """The words of the cells of one puzzle."""
    if not any(isinstance(item, list) or _is_row(item) for item in value):
        if len(value) != size**2:
            raise UserError(f"{prefix}found {len(value)} cells, expected {size**2}{other_size(len(value), size)}")
        return [word_of(cell) for cell in value]
    rows: list[list[str]] = []
    for number, row in enumerate(value, 1):
        if isinstance(row, str):
            rows.append([cell.word for cell in _cells_of(row, size)])
        elif isinstance(row, list):
            rows.append([word_of(cell) for cell in row])
        else:
            raise UserError(f"{prefix}row {number} is {json.dumps(row)[:40]}: a row is a text or a list of cells")
        for column, word in enumerate(rows[-1]):
            if word.startswith(("[", "{")):
                spot = cell_name((number - 1) * size + column, size)
                raise UserError(f"{prefix}{not_a_cell(word, spot, size)}")
    hint = other_size(sum(len(row) for row in rows), size)
    for number, cells in enumerate(rows, 1):
        if len(cells) != size:
            s = "s" * (len(cells) != 1)
            raise UserError(f"{prefix}row {number} has {len(cells)} cell{s}, expected {size}{hint}")
    if len(rows) != size:
        raise UserError(f"{prefix}found {len(rows)} row{'s' * (len(rows) != 1)} of {size} cells, expected {size}")
    return [word for row in rows for word in row]
