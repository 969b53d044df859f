"""Puzzle files: CSV with the columns question and answer (source and rating optional), and plain text to solve."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.sudoku.engine import Ratings
from trm_fast.tasks.sudoku.puzzles import Puzzles
from trm_fast.tasks.sudoku.rules import Grids, conflict, obeys, place
from trm_fast.tasks.sudoku.text import BLANKS, allowed, cell_positions, other_size, parse

BAD = 255
CHUNK = 1 << 16
"""Rows checked at a time, which bounds the memory of the checks."""


def read(path: str | Path, size: int) -> Puzzles:
    """Every puzzle of a CSV file (``.gz`` too), in order.

    UserError with file and line for a row that is malformed, whose answer breaks the rules or does not keep the givens.
    """
    questions: list[str] = []
    answers: list[str] = []
    ratings: list[str] = []
    lines: list[int] = []
    with _open(path) as stream:
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
            lines.append(reader.line_num)
    if not lines:
        raise UserError(f"{path} has a header but no puzzles")

    def where(row: int) -> str:
        return f"{path}:{lines[row]}"

    return Puzzles(size, *decode(questions, answers, size, where), decode_ratings(ratings, where) if ratings else None)


def decode(
    questions: Sequence[str], answers: Sequence[str], size: int, where: Callable[[int], str]
) -> tuple[Grids, Grids]:
    """Two columns of text as checked grids; the first bad row is a UserError that starts with ``where(row)``."""
    parts = []
    for start in range(0, len(questions), CHUNK):
        q, a = questions[start : start + CHUNK], answers[start : start + CHUNK]
        fits = [len(x) == len(y) == size * size for x, y in zip(q, a, strict=True)]
        sound = fits.index(False) if False in fits else len(fits)
        grids, solved = _digits(q[:sound], size), _digits(a[:sound], size)
        wrong = (grids == BAD).any(axis=1) | ~obeys(solved, size) | ((grids > 0) & (grids != solved)).any(axis=1)
        row = int(wrong.argmax()) if wrong.any() else sound
        if row < len(fits):
            raise UserError(f"{where(start + row)}: {_fault(q[row], a[row], size)}")
        parts.append((grids, solved))
    return np.concatenate([grids for grids, _ in parts]), np.concatenate([solved for _, solved in parts])


def decode_ratings(column: Sequence[str], where: Callable[[int], str]) -> Ratings:
    for row, value in enumerate(column):
        if not (value.isdecimal() and len(value) < 10):
            raise UserError(f"{where(row)}: the rating {value!r} is not a whole number below a thousand million")
    return np.array([int(value) for value in column], dtype=np.int32)


def questions(path: str | Path, size: int) -> Iterator[Question]:
    """The puzzles of a CSV file with a column ``question``, or of plain text: one a line, or one grid over many lines.

    In plain text blank lines and lines that start with ``#`` are skipped. UserError as from ``text.parse``.
    """
    with _open(path) as stream:
        numbered = enumerate(stream, 1)
        lines = ((number, line) for number, line in numbered if line.strip() and not line.lstrip().startswith("#"))
        start, first = next(lines, (0, ""))
        if not start:
            raise UserError(f"{path} has no puzzles")
        header = next(csv.reader([first]))
        if "question" in header:
            column = header.index("question")
            for number, line in lines:
                row = next(csv.reader([line]))
                if len(row) <= column:
                    raise UserError(f"{path}:{number}: the question is missing")
                yield parse(row[column], size, f"{path}:{number}")
        elif len(cell_positions(first)) > size:
            for number, line in chain([(start, first)], lines):
                yield parse(line, size, f"{path}:{number}")
        else:
            yield parse(first + "".join(line for _, line in lines), size, f"{path}:{start}")


def write(path: str | Path, puzzles: Puzzles, source: str = "trm_fast") -> None:
    """Writes the columns source, question, answer and, where known, rating; gzip where the name ends in ``.gz``.

    The file appears under its name only when it is complete. The same puzzles give the same bytes.
    """
    path = Path(path)
    columns = {
        "source": [source] * len(puzzles),
        "question": as_lines(puzzles.questions),
        "answer": as_lines(puzzles.answers),
    }
    if puzzles.ratings is not None:
        columns["rating"] = puzzles.ratings.tolist()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    content = text.getvalue().encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        _replace(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def as_lines(grids: Grids) -> list[str]:
    """Each grid as a line of digits with ``.`` for a blank."""
    characters = np.frombuffer(b".123456789", dtype=np.uint8)[grids]
    return [row.tobytes().decode() for row in characters]


def _digits(lines: Sequence[str], size: int) -> Grids:
    """Lines of size * size characters as digits, ``BAD`` for what is neither a digit of this size nor a blank."""
    table = np.full(256, BAD, dtype=np.uint8)
    table[[ord(c) for c in BLANKS]] = 0
    table[ord("1") : ord("1") + size] = np.arange(1, size + 1)
    characters = np.frombuffer("".join(lines).encode("latin-1", "replace"), dtype=np.uint8)
    return table[characters].reshape(-1, size * size)


def _fault(question: str, answer: str, size: int) -> str:
    """What is wrong with a row that did not pass."""
    for name, cells in (("question", question), ("answer", answer)):
        if not cells.strip():
            return f"the {name} is missing"
        if len(cells) != size * size:
            return f"the {name} has {len(cells)} characters, {size * size} wanted{other_size(len(cells), size)}"
    given, solved = _digits([question, answer], size)
    for name, cells, digits in (("question", question, given), ("answer", answer, solved)):
        if (digits == BAD).any():
            cell = int((digits == BAD).argmax())
            return f"{cells[cell]!r} in the {name} ({place(cell, size)}) is not a cell: {allowed(size)}"
    if (solved == 0).any():
        return f"the answer leaves {place(int((solved == 0).argmax()), size)} blank"
    clash = conflict(solved, size)
    if clash:
        return f"the answer breaks the rules: {clash}"
    cell = int(((given > 0) & (given != solved)).argmax())
    return f"the answer has {solved[cell]} at {place(cell, size)}, where the question has {given[cell]}"


def _column(header: list[str], name: str, path: str | Path) -> int:
    if name not in header:
        raise UserError(
            f"{path}:1: no column {name!r} in the header ({', '.join(header)[:80]}); the file must start "
            "with a header line such as source,question,answer,rating"
        )
    return header.index(name)


@contextmanager
def _open(path: str | Path) -> Iterator[TextIO]:
    """A text file, gzip where the name ends in ``.gz``; whatever stops it being read is a UserError with the path."""
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a gzip file, or a damaged one: {error}") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
