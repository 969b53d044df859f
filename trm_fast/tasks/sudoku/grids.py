"""Finds the sudokus in a plain text: one on each line, or grids with any kind of frame and empty lines inside.

The shape decides what dashes and stars are, because some people write blanks and others frames with them: a grid is
read in the way in which all rows have the right number of cells, and all blanks are written alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import NoReturn

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku.cells import digit, not_a_cell, one_kind_of_blank, other_size, spreadsheet_hint
from trm_fast.tasks.sudoku.lines import MARKS, Cell, Kind, Line, lines_of

Row = tuple[Line, list[Cell]]


@dataclass(frozen=True)
class GridText:
    """A puzzle in a text: its part of the text, its cells with their places in the whole text, and its first line."""

    text: str
    cells: list[Cell]
    line: int


@dataclass(frozen=True)
class GridReader:
    """Reads the puzzles of a text.

    Args:
        text: the text.
        size: rows, columns and digits.
        where: the file or another place that the text comes from, for error messages; may be empty.
        is_file: whether the lines of the text are those of the file ``where``.
    """

    text: str
    size: int
    where: str = ""
    is_file: bool = False

    def find(self) -> Iterator[GridText]:
        """The puzzles, in order; none if the text has no cells.

        Raises:
            UserError: a row has the wrong number of cells, or a grid the wrong number of rows.
        """
        has_puzzles = False
        open_parts: list[list[Row]] = []  # of a grid with empty lines inside
        caption: Line | None = None
        for block, title in self._blocks():
            caption = title or caption
            rows = self._rows(block)
            if not rows:
                continue
            has_puzzles = True
            whole = len(rows[0][1]) == self.size**2
            if open_parts and (whole or title or len(rows) != len(open_parts[-1])):
                self._refuse_rows([*chain(*open_parts)])
            if whole:
                yield self._grid_text(rows, block)
            elif len(rows) % self.size == 0:
                for start in range(0, len(rows), self.size):
                    yield self._grid_text(rows[start : start + self.size], block)
            elif self.size % len(rows) == 0:
                open_parts.append(rows)
                if len(open_parts) * len(rows) == self.size:
                    yield self._grid_text([*chain(*open_parts)], [])
                    open_parts = []
            else:
                self._refuse_rows(rows)
        if open_parts:
            self._refuse_rows([*chain(*open_parts)])
        if caption and not has_puzzles:
            self._refuse_cell(caption, next(c for c in caption.characters() if digit(c.word, self.size) < 0))

    def is_whole(self) -> bool:
        """Whether the text has a whole puzzle on one line, or several lines."""
        lines = list(lines_of(self.text, self.size))
        return len(lines) > 1 or any(map(self._is_whole, lines))

    def spot(self, cell: Cell, named: int) -> str:
        """The place of a cell: its character, and its line unless ``prefix(named)`` says so."""
        preceding = self.text[: cell.start].replace("\r\n", "\n").replace("\r", "\n")
        line, character = preceding.count("\n") + 1, len(preceding) - preceding.rfind("\n")
        is_named = line == named if self.is_file else not re.search("[\r\n]", self.text.strip())
        return f"character {character}" if is_named else f"line {line}, character {character}"

    def prefix(self, line: int) -> str:
        """The start of an error message about a line."""
        if self.is_file:
            return f"{self.where}:{line}: "
        return f"{self.where}: " if self.where else ""

    def _blocks(self) -> Iterator[tuple[list[Line], Line | None]]:
        """Lines between empty lines, and each whole puzzle on one line; with the caption before them, if any."""
        block: list[Line] = []
        caption: Line | None = None
        for line in chain(lines_of(self.text, self.size), [Line(0, len(self.text), "", self.size)]):
            whole = line.kind is Kind.ROW and self._is_whole(line)
            if block and (whole or line.kind in (Kind.EMPTY, Kind.CAPTION)):
                yield block, caption
                block, caption = [], None
            if line.kind is Kind.CAPTION:
                caption = line
            elif whole:
                yield [line], caption
                caption = None
            elif line.kind is not Kind.EMPTY:
                block.append(line)
        if caption:
            yield [], caption

    def _is_whole(self, line: Line) -> bool:
        return any(len(line.cells(separators)) == self.size**2 for separators in _separators([line]))

    def _rows(self, block: Sequence[Line]) -> list[Row]:
        """The rows of cells in a block: of one or several grids, or of a part of a grid."""
        readings: list[tuple[bool, bool, list[Row]]] = []
        has_marks = any(line.kind is Kind.MARKS for line in block)
        for separators in _separators(block):
            for marks_are_cells in (True, False) if has_marks else (False,):
                lines = [
                    line for line in block
                    if line.kind is Kind.ROW
                    or (marks_are_cells and len(line.marks) == self.size and line.marks[0] not in separators)
                ]  # fmt: skip
                rows = self._without_empty_rows([(line, line.cells(separators)) for line in lines])
                counts = {len(cells) for _, cells in rows}
                fits = counts == {self.size} or (counts == {self.size**2} and len(rows) == 1)
                if fits and self._odd_width(rows) is None:
                    alike = one_kind_of_blank([cell.word for _, cells in rows for cell in cells])
                    readings.append((not alike, len(rows) % self.size != 0, rows))
        if readings:
            return min(readings, key=lambda reading: reading[:2])[2]
        if rows := [(line, line.cells()) for line in block if line.kind is Kind.ROW]:
            self._refuse(rows)
        for line in block:
            if len(line.marks) == self.size**2:
                raise UserError(
                    f"{self.prefix(line.number)}{line.marks[0]!r} on a whole line is either a rule or a puzzle without "
                    "givens: write . for a blank"
                )
        return []

    def _odd_width(self, rows: Sequence[Row]) -> int | None:
        """The index of the first row with another number of fields than the others, if empty fields are blanks: then a
        field too many in a row moves the others. None if there is no such row."""
        if all(cell.word for _, cells in rows for cell in cells):
            return None
        whole = len(rows[0][1]) == self.size**2
        width = self.size**2 if whole else max(Counter(line.width for line, _ in rows).items(), key=itemgetter(1))[0]
        return next((index for index, (line, _) in enumerate(rows) if line.width != width), None)

    def _without_empty_rows(self, rows: list[Row]) -> list[Row]:
        """The rows without empty ones after the last row of a grid, which spreadsheets add."""
        while len(rows) > self.size and not any(cell.word for cell in rows[-1][1]):
            rows = rows[:-1]
        return rows

    def _grid_text(self, rows: Sequence[Row], block: Sequence[Line]) -> GridText:
        """The puzzle of some rows. Its text has the frame around it, if the block has no other puzzle."""
        first, last = rows[0][0], rows[-1][0]
        if sum(line.kind is Kind.ROW for line in block) <= self.size and block:
            first, last = block[0], block[-1]
        start, end = first.outer[0], last.outer[1]
        return GridText(self.text[start:end], [cell for _, cells in rows for cell in cells], rows[0][0].number)

    def _refuse(self, rows: Sequence[Row]) -> NoReturn:
        """Says what is wrong with rows that have the wrong number of cells."""
        hint = other_size(sum(len(cells) for _, cells in rows), self.size)
        if len(rows) == 1 and not hint:
            hint = spreadsheet_hint(rows[0][0].content.strip(), self.size**2)
        if not hint and any(c.isspace() and not c.isascii() for line, _ in rows for c in line.content):
            hint = " (there are no-break spaces: write . or 0 for a blank)"
        for line, _ in rows:
            if line.has_puzzles_in_fields:
                raise UserError(
                    f"{self.prefix(line.number)}this looks like a row of a table, but the first line names no column of"
                    " questions: start with a line such as question,answer"
                )
        for line, _ in rows:
            lengths = [len(word.word) for word in line.words]
            if sum(lengths) in (self.size, self.size**2) and len(set(lengths)) > 1:
                groups = str(lengths)[1:-1]
                raise UserError(f"{self.prefix(line.number)}the cells are in groups of different lengths: {groups}")
            several = [word for word in line.words if len(word.word) > 1 and word.word.isdecimal()]
            if len(lengths) == self.size and several:
                self._refuse_cell(line, several[0])
            for cell in line.characters():
                if digit(cell.word, self.size) < 0:
                    self._refuse_cell(line, cell, hint)
        if {len(cells) for _, cells in rows} <= {self.size} and (odd := self._odd_width(rows)) is not None:
            line = rows[odd][0]
            raise UserError(f"{self.prefix(line.number)}row {odd + 1} has {line.width} fields, the others do not")
        number, (line, cells) = next((i, row) for i, row in enumerate(rows, 1) if len(row[1]) != self.size)
        prefix, count, s = self.prefix(line.number), len(cells), "s" * (len(cells) != 1)
        if len(rows) == 1 or count > 2 * self.size:
            raise UserError(f"{prefix}found {count} cell{s}, expected {self.size**2}{hint}")
        raise UserError(f"{prefix}row {number} has {count} cell{s}, expected {self.size}{hint}")

    def _refuse_rows(self, rows: Sequence[Row]) -> NoReturn:
        """Says that there are too few or too many rows."""
        prefix, count = self.prefix(rows[0][0].number), len(rows)
        if count == 1:
            raise UserError(f"{prefix}found {self.size} cells, expected {self.size**2}")
        hint = " (write a grid without headers)" if count == self.size + 1 else ""
        raise UserError(f"{prefix}found {count} rows of {self.size} cells, expected {self.size}{hint}")

    def _refuse_cell(self, line: Line, cell: Cell, hint: str = "") -> NoReturn:
        raise UserError(
            f"{self.prefix(line.number)}{not_a_cell(cell.word, self.spot(cell, line.number), self.size)}{hint}"
        )


def _separators(lines: Sequence[Line]) -> list[str]:
    """The sets of marks that may separate the cells of some rows; the empty set first."""
    sets = [""]
    for mark in MARKS:
        if any(mark in line.content for line in lines if line.kind is Kind.ROW):
            sets += [marks + mark for marks in sets]
    return sets
