"""Finds the columns of a table by their names, and its delimiter, in its header line."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trm_fast.errors import UserError

QUESTION = (
    "question", "puzzle", "quiz", "maze", "sudoku", "board", "grid", "unsolved", "input", "problem", "questions",
    "puzzles", "quizzes", "mazes", "sudokus", "boards", "grids", "inputs", "problems",
)  # fmt: skip
"""Names of the column of questions, the usual one first."""

ANSWER = ("answer", "solution", "solved", "output", "answers", "solutions", "outputs")
"""Names of the column of answers, the usual one first."""

GENERAL = ("input", "problem", "output", "inputs", "problems", "outputs")
"""Those of these names that other columns of a table of puzzles may have, beside a column with a clearer name."""

RATING = ("rating", "ratings")

OTHER_RULES = (
    "cages", "cage", "killer", "killercage", "killer_cages", "regions", "jigsaw", "irregular", "thermos",
    "thermometer", "thermometers", "arrow", "arrows", "kropki", "sandwich", "sandwiches", "antiknight", "antiking",
    "nonconsecutive", "diagonal", "diagonals", "inequality", "inequalities", "constraints", "variant",
)  # fmt: skip
"""Names of columns and keys that give a puzzle other rules than the usual ones, in lower case."""
USUAL_RULES = ("", "none", "null", "false", "no", "0", "[]", "{}", "classic", "standard", "normal", "regular", "sudoku")
"""The values under these names that say that the rules are the usual ones."""

ENDS = ("start", "goal", "end", "finish", "exit", "entrance", "target")
"""Names of columns and keys that give the ends of a maze as positions."""
_POSITION = re.compile(r"\s*[\[({]?\s*-?\d+\s*[,; ]\s*-?\d+\s*[\])}]?\s*")

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Header:
    """The names of a table's columns, the indices of those that are read, and the delimiter of its rows.

    ``question``, ``answer`` and ``rating`` are None if there is no such column.
    """

    names: list[str]
    delimiter: str
    question: int | None
    answer: int | None
    rating: int | None


def read_header(line: str, where: str) -> Header:
    """The header in the first line of a table. Its delimiter is the one that gives a column of questions.

    Raises:
        UserError: several columns could be the questions, the answers or the ratings.

    Examples:
        >>> header = read_header("id;Quizzes;Solutions", "file.csv:1")
        >>> header.delimiter, header.question, header.answer
        (';', 1, 2)
    """
    try:
        rows = [(next(csv.reader([line], delimiter=d), []), d) for d in DELIMITERS]
    except csv.Error as error:  # a field of more than 131,072 characters
        raise UserError(f"{where}: not a line of a table: {error}" if where else f"not a table: {error}") from None
    rows.sort(key=lambda row: len(row[0]), reverse=True)
    matching = (row for row in rows if find_column(row[0], QUESTION, where) is not None)
    names, delimiter = next(matching, rows[0])
    question = find_column(names, QUESTION, where)
    answer, rating = find_column(names, ANSWER, where), find_column(names, RATING, where)
    return Header(names, delimiter, question, answer, rating)


def check_rules(names: Sequence[object], fields: Sequence[object], where: str) -> None:
    """Raises a UserError if a puzzle has rules besides the usual ones, such as the cages of a killer sudoku, or the
    ends of a maze as positions, which its cells may contradict.

    Args:
        names: the names of the columns or keys.
        fields: their values.
        where: the file and line, for the message.
    """
    prefix = f"{where}: " if where else ""
    for name, value in zip(names, fields, strict=False):
        key = str(name).strip().casefold()
        if key in ENDS and (isinstance(value, (list, tuple, dict)) or _POSITION.fullmatch(str(value))):
            raise UserError(
                f"{prefix}{name} gives a position, which is not read: mark S and G in the cells of the maze"
            )
        if key in OTHER_RULES and str(value or "").strip().casefold() not in USUAL_RULES:
            raise UserError(f"{prefix}{name} gives the puzzle other rules; only puzzles with the usual rules are read")


def find_column(names: Sequence[object], aliases: Sequence[str], where: str) -> int | None:
    """The index of the name that is one of ``aliases``, in any case; None if there is none.

    The first of ``aliases`` comes before the others, and those of ``GENERAL`` come after them.

    Raises:
        UserError: several of the names match. The message starts with ``where``.
    """
    plain = [str(name).strip().strip("\"'\ufeff").casefold() for name in names]
    tiers = (aliases[:1], [alias for alias in aliases if alias not in GENERAL], aliases)
    matches = next(filter(None, ([i for i, name in enumerate(plain) if name in tier] for tier in tiers)), [])
    if len(matches) > 1:
        prefix = f"{where}: " if where else ""
        both = " and ".join(str(names[i]) for i in matches[:2])
        raise UserError(f"{prefix}{both} could both be the {aliases[0]}: rename one of them")
    return matches[0] if matches else None
