"""Puzzle tables: CSV with the columns question and answer (source and rating optional), gzip where named ``.gz``."""

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
"""Rows checked at a time, which bounds the memory of the checks."""


@dataclass
class Table:
    """Columns of text. ``ratings`` is empty where there is no such column; ``names`` says where each row stood."""

    questions: Sequence[str] = field(default_factory=list)
    answers: Sequence[str] = field(default_factory=list)
    ratings: Sequence[str] = field(default_factory=list)
    names: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)


def read_table(path: str | Path) -> Table:
    """Every row of a CSV file, fields as they stand: spaces matter. UserError with file and line where one is cut."""
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
    """Writes the columns source, question, answer and, where known, rating; gzip where the name ends in ``.gz``.

    The file appears under its name only when it is complete. The same puzzles give the same bytes.
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
    """The ratings, int32 (N,), None where there are none."""
    for row, value in enumerate(table.ratings):
        if not (value.isdecimal() and len(value) < 10):
            raise UserError(f"{table.names[row]}: the rating {value!r} is not a whole number below a thousand million")
    return np.array([int(value) for value in table.ratings], dtype=np.int32) if table.ratings else None


def decode_grids(
    table: Table,
    characters: Grids,
    cells: int,
    wrong: Callable[[Grids, Grids], npt.NDArray[np.bool_]],
    fault: Callable[[str, str], str],
) -> tuple[Grids, Grids]:
    """Questions and answers of ``cells`` characters as grids, uint8 (N, cells).

    ``characters`` (256,): the number that each stands for. ``wrong`` marks the pairs that are none; the first one, or a
    row of another length, is a UserError that names it and says what ``fault(question, answer)`` does.
    """
    parts = []
    for start in range(0, len(table), CHUNK):
        q, a = table.questions[start : start + CHUNK], table.answers[start : start + CHUNK]
        fits = [len(x) == len(y) == cells for x, y in zip(q, a, strict=True)]
        sound = fits.index(False) if False in fits else len(fits)
        questions, answers = (read_cells(lines[:sound], characters, cells) for lines in (q, a))
        bad = wrong(questions, answers)
        row = int(bad.argmax()) if bad.any() else sound
        if row < len(fits):
            raise UserError(f"{table.names[start + row]}: {fault(q[row], a[row])}")
        parts.append((questions, answers))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def read_cells(lines: Sequence[str], characters: Grids, cells: int) -> Grids:
    """Lines of ``cells`` characters as the numbers that these stand for (N, cells); beyond Latin-1 as ``?`` does."""
    codes = np.frombuffer("".join(lines).encode("latin-1", "replace"), dtype=np.uint8)
    return characters[codes].reshape(-1, cells)


def question_column(lines: Iterable[str], path: str | Path) -> Iterator[tuple[str, str]] | None:
    """(question, where it stands) of each row of a CSV file; None where no column of its header is called question."""
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
    """Where a cell of a grid is, for people."""
    return f"row {cell // width + 1}, column {cell % width + 1}"
