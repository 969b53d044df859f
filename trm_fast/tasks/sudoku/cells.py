"""The cells of a sudoku: which words stand for a digit, and which for a blank."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku.rules import Grids

BLANKS = ".0_-*?xX·"
"""The characters that stand for a blank."""

NOTHING = ("", "null", "none", "nan")
"""The words for a blank in lists and spreadsheets, in lower case."""

Spot = Callable[[int], str]
"""Describes the position of a cell, for error messages."""

_FLOAT = re.compile(r"(-?\d)\.0?")


def word_of(cell: Any) -> str:
    """The word for a cell of a list, such as a number, None or a character.

    Examples:
        >>> [word_of(cell) for cell in (5, 5.0, None, float("nan"), " x")]
        ['5', '5', 'null', 'nan', 'x']
    """
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else "nan" if math.isnan(cell) else str(cell)
    return cell.strip() if isinstance(cell, str) else json.dumps(cell)


def digit(word: str, size: int) -> int:
    """The digit that a word stands for: 0 for a blank, -1 if it is neither a digit nor a blank.

    Examples:
        >>> [digit(word, 9) for word in ("5", "5.", "5.0", ".", "-1", "None", "12")]
        [5, 5, 5, 0, 0, 0, -1]
    """
    word = _simple(word)
    if len(word) == 1 and word in "123456789"[:size]:
        return int(word)
    return 0 if _blank_kind(word) is not None else -1


def is_cell(word: str) -> bool:
    """Whether a word can only be a single cell: it has one character, or is a longer word for a blank or a digit."""
    return len(word) == 1 or digit(word, 9) >= 0


def one_kind_of_blank(words: Sequence[str]) -> bool:
    """Whether all blanks among the words are written in the same way."""
    return len({_blank_kind(_simple(word)) for word in set(words)} - {None}) <= 1


def read_words(words: Sequence[str], size: int, prefix: str, spot: Spot) -> Grids:
    """The digits of the words of all cells, uint8 (size * size,), 0 for a blank.

    Raises:
        UserError: a word is not a cell, or blanks are written in several ways, such as 0 and a dot: then 0 may be a
            digit of a puzzle with digits from 0. The message starts with ``prefix``.
    """
    digits = {word: digit(word, size) for word in dict.fromkeys(words)}  # in their order, for messages
    kinds: dict[str | None, int] = {}  # where each kind of blank comes first
    for word, value in digits.items():
        index = words.index(word)
        if value < 0:
            raise UserError(f"{prefix}{not_a_cell(word, spot(index), size)}")
        if value == 0:
            kinds.setdefault(_blank_kind(_simple(word)), index)
    if len(kinds) > 1:
        first, other = list(kinds.values())[:2]
        raise UserError(
            f"{prefix}blanks are written in two ways, {words[first]!r} ({spot(first)}) and {words[other]!r} "
            f"({spot(other)}): write all of them as . or all as 0, and digits from 1 to {size}"
        )
    return np.array([digits[word] for word in words], dtype=np.uint8)


def not_a_cell(word: str, spot: str, size: int) -> str:
    """Says that a word is not a cell."""
    if re.fullmatch(r"\d{2,9}|\[.*\]", word, re.DOTALL):
        return (
            f"{word[:40]!r} ({spot}) is not one cell: pencil marks are not read; write one digit in each cell, and . "
            "in the open ones"
        )
    return f"{word[:40]!r} ({spot}) is not a cell of a {size}x{size} puzzle: {allowed(size)}"


def allowed(size: int) -> str:
    """Describes the characters that a cell can have, for error messages."""
    return f"write 1 to {size}, and . or 0 for a blank"


def other_size(cells: int, size: int) -> str:
    """A hint if the number of cells is that of another size, or of pencil marks; an empty string otherwise."""
    if cells == size**3:
        return " (pencil marks are not read: write one digit in each cell, and . in the open ones)"
    other = {16: 4, 36: 6, 81: 9}.get(cells)
    if other in (None, size):
        return ""
    return f" (this is a {other}x{other} puzzle, but the task is set to size {size}: set task.size to {other})"


def spreadsheet_hint(text: str, cells: int) -> str:
    """A hint if a spreadsheet seems to have turned the cells of a puzzle into a number; an empty string otherwise."""
    if re.fullmatch(r"[\d.,]+E\+\d+", text, re.IGNORECASE):
        return "; a spreadsheet has turned the cells into a number: format the column as text"
    if text.isdecimal() and "0" in text and 0.75 * cells < len(text) < cells:
        return "; if a spreadsheet has lost leading zeros, format the column as text"
    return ""


def _simple(word: str) -> str:
    """The word without the zero behind the point of a whole number, as numpy and pandas write it."""
    match = _FLOAT.fullmatch(word)
    return match[1] if match else word


def _blank_kind(word: str) -> str | None:
    """The way in which a blank is written; None if the word is no blank."""
    word = word.lower()
    if word in NOTHING:
        return ""
    return word if word == "-1" or (len(word) == 1 and word in BLANKS) else None
