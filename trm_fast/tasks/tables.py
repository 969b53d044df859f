"""Reads and writes tables of puzzles in CSV files; also reads them from JSON.

The columns are question and answer, and optionally source and rating. Files whose names end in ``.gz`` are compressed.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.columns import ANSWER, QUESTION, Header, check_rules, read_header
from trm_fast.tasks.files import open_text, write_text
from trm_fast.tasks.sets import Ratings
from trm_fast.tasks.values import is_value, rows_with_answers
from trm_fast.texts import read_rest

_SEPARATOR = re.compile(r"\ufeff?\"?sep=.\"?\s*")
"""The first line of files for Excel, which names the delimiter. It is found from the header anyway."""
Grids = npt.NDArray[np.uint8]
MAX_RATING = 10**9
CHUNK = 1 << 14
"""How many rows are checked at a time. It bounds memory."""


@dataclass
class Table:
    """The columns of a table as text. ``names`` is the file and line of each row; ``ratings`` is empty if there is
    no such column. ``unread`` names the other columns."""

    questions: list[str]
    answers: list[str]
    ratings: list[str]
    names: list[str]
    unread: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)

    def mapped(self, change: Callable[[str, str], str]) -> Table:
        """The table with ``change(text, name)`` in place of each question and answer."""
        questions, answers = ([*map(change, part, self.names)] for part in (self.questions, self.answers))
        return Table(questions, answers, self.ratings, self.names, self.unread)

    def append(self, name: str, question: str, answer: str, rating: str | None) -> None:
        """Adds a row; all rows of a table have a rating, or none has."""
        self.names.append(name)
        self.questions.append(question)
        self.answers.append(answer)
        if rating is not None:
            self.ratings.append(rating)


def read_table(path: str | Path, limit: int | None = None) -> Table:
    """The rows of a CSV file, or of objects in JSON: all, or the first ``limit``, and then no more are read. Fields are
    not stripped, because a space can be a cell of a maze.

    ``trm_fast.tasks.columns`` has the names that the columns may have, and the delimiters.

    Raises:
        UserError: the file cannot be read, has no such columns or no rows, or a row is incomplete. The message names
            file and line.
    """
    table = Table([], [], [], [])
    with open_text(path) as stream:
        start = stream.readline()
        while start and not start.strip():
            start += stream.readline()
        if not start.strip():
            raise UserError(f"{path} is empty")
        if is_value(start):
            for fields in islice(rows_with_answers(start + read_rest(stream, path), str(path), table.unread), limit):
                table.append(*fields)
            return table
        header, rows = _rows(chain(io.StringIO(start, newline=""), stream), path)
        for name, column in (("question", header.question), ("answer", header.answer)):
            if column is None:
                raise UserError(
                    f"{path}:1: no column {name!r} in the header ({', '.join(header.names)[:80]}); a file with answers "
                    "must start with a header line such as source,question,answer,rating (other names: "
                    f"{', '.join(QUESTION[1:7])}; {', '.join(ANSWER[1:3])})"
                )
        assert header.question is not None
        assert header.answer is not None
        read = (header.question, header.answer, header.rating)
        table.unread += [name.strip() for index, name in enumerate(header.names) if index not in read]
        for where, row in islice(rows, limit):
            if len(row) != len(header.names):
                raise UserError(f"{where}: {len(row)} fields, the header has {len(header.names)}")
            check_rules(header.names, row, where)
            rating = None if header.rating is None else row[header.rating]
            table.append(where, row[header.question], row[header.answer], rating)
    if not table.names:
        raise UserError(f"{path} has a header but no puzzles")
    return table


def question_column(text: str, where: str, *, alone: bool = True) -> Iterator[tuple[str, str]] | None:
    """The questions of a table in CSV, each with its line; None if the text does not start with a header that has a
    column of questions.

    Args:
        text: the text.
        where: the file that it comes from, for error messages; may be empty.
        alone: whether this column may be the only one.

    Raises:
        UserError: a row has no question.
    """
    header, rows = _rows(io.StringIO(text, newline=""), where)
    column = header.question
    if column is None or not (alone or len(header.names) > 1):
        return None

    def questions() -> Iterator[tuple[str, str]]:
        for location, row in rows:
            if len(row) <= column:
                raise UserError(f"{location}: the question is missing")
            check_rules(header.names, row, location)
            yield row[column], location

    return questions()


def _rows(lines: Iterable[str], where: str | Path) -> tuple[Header, Iterator[tuple[str, list[str]]]]:
    """The header of a table, and its rows with their places.

    Empty rows, lines that start with ``#`` before the header or as a row's only field, and Excel's line with the
    delimiter, are left out.
    """
    numbered = iter(lines)
    skipped, header = 0, Header([], ",", None, None, None)
    for line in numbered:
        if line.strip():
            header = read_header(line, f"{where}:{skipped + 1}" if where else "")
            is_note = line.lstrip().startswith("#") or _SEPARATOR.fullmatch(line)
            if header.question is not None or not is_note:
                break
        skipped += 1

    def rows() -> Iterator[tuple[str, list[str]]]:
        reader = csv.reader(numbered, delimiter=header.delimiter)
        for row in _checked(reader, where):
            comment = len(row) < len(header.names) and row and row[0].lstrip().startswith("#")
            if any(row) and not comment:
                number = skipped + 1 + reader.line_num
                yield f"{where}:{number}" if where else f"line {number}", row

    return header, rows()


def _checked(reader: Any, where: str | Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        file = f"{where}: " if where else ""
        raise UserError(f"{file}line {reader.line_num} of the table: {error}") from None


def write_table(
    path: str | Path,
    questions: Sequence[str],
    answers: Sequence[str],
    ratings: Ratings | None,
    source: str,
) -> None:
    """Writes the columns source, question, answer and, where known, rating, completely or not at all.

    The same puzzles give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    columns: dict[str, Sequence[Any]] = {
        "source": [source] * len(questions),
        "question": questions,
        "answer": answers,
    }
    if ratings is not None:
        columns["rating"] = ratings.tolist()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(Path(path), text.getvalue())


def decode_ratings(table: Table) -> Ratings | None:
    """The ratings of a table, int32 (N,), or float64 (N,) if some are no whole numbers below 10^9. None if it has no
    such column, or a rating is no finite number, such as a missing one or a word."""
    try:
        values = np.array([float(value.strip().replace(",", ".")) for value in table.ratings])
    except ValueError:
        return None
    if not len(values) or not np.isfinite(values).all():
        return None
    whole = ((values == np.round(values)) & (np.abs(values) < MAX_RATING)).all()
    return values.astype(np.int32) if whole else values


def decode_grids(
    table: Table,
    characters: Grids,
    cells: int,
    wrong: Callable[[Grids, Grids], npt.NDArray[np.bool_]],
    fault: Callable[[str, str], str],
) -> tuple[Grids, Grids]:
    """The questions and answers of a table as grids, uint8 (N, cells) each.

    Args:
        table: N rows whose fields have one character for each cell.
        characters: the cell value of each Latin-1 character, (256,).
        cells: the number of cells in a grid.
        wrong: marks the wrong rows among n question grids and answer grids, bool (n,).
        fault: describes what is wrong with a row, from the texts of its question and answer.

    Raises:
        UserError: a row is wrong, or has another length. The message names the first such row.
    """
    parts = []
    for start in range(0, len(table), CHUNK):
        q, a = table.questions[start : start + CHUNK], table.answers[start : start + CHUNK]
        fits = [len(x) == len(y) == cells for x, y in zip(q, a, strict=True)]
        complete = fits.index(False) if False in fits else len(fits)
        questions, answers = (read_cells(lines[:complete], characters, cells) for lines in (q, a))
        bad = wrong(questions, answers)
        row = int(bad.argmax()) if bad.any() else complete
        if row < len(fits):
            raise UserError(f"{table.names[start + row]}: {fault(q[row], a[row])}")
        parts.append((questions, answers))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def read_cells(lines: Sequence[str], characters: Grids, cells: int) -> Grids:
    """The cell values of the characters of N lines, uint8 (N, cells). A character outside Latin-1 counts as NUL."""
    codes = np.frombuffer("".join(lines).encode("utf-32-le"), dtype=np.uint32)
    return characters[np.where(codes < len(characters), codes, 0)].reshape(-1, cells)


def cell_name(cell: int, width: int) -> str:
    """The row and column of a cell, counted from 1.

    Examples:
        >>> cell_name(10, 9)
        'row 2, column 2'
    """
    return f"row {cell // width + 1}, column {cell % width + 1}"
