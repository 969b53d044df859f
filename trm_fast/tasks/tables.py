"""Reads and writes tables of puzzles in CSV files.

The columns are question and answer, and optionally source and rating. Files whose names end in ``.gz`` are compressed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.files import open_text, write_text

Grids = npt.NDArray[np.uint8]
CHUNK = 1 << 14
"""How many rows are checked at a time. It bounds memory."""


@dataclass
class Table:
    """The columns of a table as text. ``names`` is the file and line of each row; ``ratings`` is empty if there is
    no such column."""

    questions: Sequence[str] = field(default_factory=list)
    answers: Sequence[str] = field(default_factory=list)
    ratings: Sequence[str] = field(default_factory=list)
    names: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)


def read_table(path: str | Path) -> Table:
    """The rows of a CSV file. Fields are not stripped, because a space can be a cell of a maze.

    Raises:
        UserError: the file cannot be read, has no such columns or no rows, or a row is incomplete. The message names
            file and line.
    """
    questions: list[str] = []
    answers: list[str] = []
    ratings: list[str] = []
    names: list[str] = []
    with open_text(path) as stream:
        reader = csv.reader(stream)
        header = next(reader, None)
        if header is None:
            raise UserError(f"{path} is empty")
        question, answer = _column(header, "question", path), _column(header, "answer", path)
        rating = header.index("rating") if "rating" in header else None
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f"{path}:{reader.line_num}: {len(row)} fields, the header has {len(header)}")
            questions.append(row[question])
            answers.append(row[answer])
            if rating is not None:
                ratings.append(row[rating])
            names.append(f"{path}:{reader.line_num}")
    if not names:
        raise UserError(f"{path} has a header but no puzzles")
    return Table(questions, answers, ratings, names)


def write_table(
    path: str | Path,
    questions: Sequence[str],
    answers: Sequence[str],
    ratings: npt.NDArray[np.int32] | None,
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


def decode_ratings(table: Table) -> npt.NDArray[np.int32] | None:
    """The ratings of a table, int32 (N,); None if it has no such column.

    Raises:
        UserError: a rating is not a whole number below 10^9.
    """
    for row, value in enumerate(table.ratings):
        if not (value.isdecimal() and len(value) < 10):
            raise UserError(f"{table.names[row]}: the rating {value!r} is not a whole number below 1,000,000,000")
    return np.array([int(value) for value in table.ratings], dtype=np.int32) if table.ratings else None


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
    """The cell values of the characters of N lines, uint8 (N, cells). A character outside Latin-1 counts as ``?``."""
    codes = np.frombuffer("".join(lines).encode("latin-1", "replace"), dtype=np.uint8)
    return characters[codes].reshape(-1, cells)


def question_column(lines: Iterable[str], path: str | Path) -> Iterator[tuple[str, str]] | None:
    """The column question of a CSV file, each question with its file and line; None if there is no such column.

    Raises:
        UserError: a row has no question.
    """
    reader = csv.reader(lines)
    header = next((row for row in reader if row), [])
    if "question" not in header:
        return None
    column = header.index("question")

    def questions() -> Iterator[tuple[str, str]]:
        for row in reader:
            if row and len(row) <= column:
                raise UserError(f"{path}:{reader.line_num}: the question is missing")
            if row:
                yield row[column], f"{path}:{reader.line_num}"

    return questions()


def _column(header: list[str], name: str, path: str | Path) -> int:
    if name not in header:
        raise UserError(
            f"{path}:1: no column {name!r} in the header ({', '.join(header)[:80]}); the file must start "
            "with a header line such as source,question,answer,rating"
        )
    return header.index(name)


def cell_name(cell: int, width: int) -> str:
    """The row and column of a cell, counted from 1.

    Example:
        >>> cell_name(10, 9)
        'row 2, column 2'
    """
    return f"row {cell // width + 1}, column {cell % width + 1}"
