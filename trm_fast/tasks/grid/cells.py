"""The cells of a question or an answer: in text, as characters or as words, and in lists of JSON.

A symbol is a text: the character, the word, or the item of a list that a cell holds. Characters are those that a reader
sees (grapheme clusters of Unicode), in the normalization form C, so that an accent is a part of its letter however it
was typed.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from trm_fast.errors import UserError, shown
from trm_fast.tasks.files import split_lines
from trm_fast.tasks.values import is_value, parse_value

Shape = tuple[int, ...]
"""Rows and columns; or the length of a line of cells alone."""

SEPARATORS = (" ", ",", ";", "|", "\t")
"""What may separate words. A space stands for any number of spaces and tabs."""

UNKNOWN = "\ufffd"
"""What an answer shows for a token that is no symbol."""


class Board(NamedTuple):
    """The symbols of a text or list, row by row, and whether it has rows.

    ``types`` has the type of JSON that each symbol of a list has: ``a text``, ``a number``, ... It is None for a text.
    """

    rows: list[list[str]]
    has_rows: bool
    types: dict[str, str] | None

    @property
    def cells(self) -> list[str]:
        """All symbols in order."""
        return self.rows[0] if len(self.rows) == 1 else [symbol for row in self.rows for symbol in row]

    @property
    def shape(self) -> Shape:
        """Rows and columns of a text with rows, otherwise the number of cells."""
        return (len(self.rows), len(self.rows[0])) if self.has_rows else (len(self.rows[0]),)


def characters(text: str) -> list[str]:
    """The characters of a text that a reader sees.

    Examples:
        >>> characters("a1"), [len(c) for c in characters("e\\u0301x")]
        (['a', '1'], [1, 1])
    """
    if text.isascii():
        return list(text)
    import regex  # only for texts beyond ASCII

    return list(regex.findall(r"\X", unicodedata.normalize("NFC", text)))


def words(text: str, separator: str) -> list[str]:
    """The words of a text between separators.

    Examples:
        >>> words("10  3", " "), words("5, ,3", ",")
        (['10', '3'], ['5', '', '3'])
    """
    text = unicodedata.normalize("NFC", text)
    return text.split() if separator == " " else [word.strip(" \t") for word in text.split(separator)]


def list_in(text: str) -> list[Any] | None:
    """The list that a text writes in JSON or in Python's spelling; None if it is no list with items."""
    if not is_value(text):
        return None
    try:
        value = parse_value(text, "")
    except UserError:
        return None
    return value if isinstance(value, list) and _leaves(value) else None


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def board_of_text(text: str, separator: str, prefix: str) -> Board:
    """The cells of a text. An empty ``separator`` makes each character a cell; otherwise cells are words.

    Raises:
        UserError: there are no cells, rows differ in length, or a character is invisible. The message starts with
            ``prefix``.
    """
    lines = split_lines(text)
    rows = [words(line, separator) if separator else characters(line) for line in lines]
    if separator == " " and looks_like_list(text):
        raise UserError(f"{prefix}{printed_list(text)}")
    return _checked(rows, len(rows) > 1, None, prefix)


def looks_like_list(text: str) -> bool:
    """Whether a text is written like a list without commas, as numpy prints one."""
    inner = text.strip()
    return inner.startswith(("[", "(")) and inner.endswith(("]", ")")) and len(inner.split()) > 1


def printed_list(text: str) -> str:
    """Says that a text that looks like a list cannot be read."""
    return f"{shown(text)} looks like a list but is none: write it as JSON, such as [1, 2, 3]"


def board_of_list(value: Sequence[Any], separator: str, prefix: str) -> Board:
    """The cells of a list: of cells, of rows, which are lists of cells, or with an empty ``separator`` of rows as text,
    one character for each cell.

    Raises:
        UserError: it is none of these, or as in ``board_of_text``.
    """
    types: dict[str, str] = {}
    if all(isinstance(row, list) for row in value):
        rows = [[_symbol(cell, types, prefix) for cell in row] for row in value]
        return _checked(rows, True, types, prefix)
    if any(isinstance(row, list | dict) for row in value):
        odd = next(row for row in value if isinstance(row, list | dict))
        raise UserError(f"{prefix}{shown(odd)} stands among cells: write a list of cells, or a list of rows of cells")
    if not separator and all(isinstance(row, str) for row in value):
        split = [characters(row) for row in value]
        if any(len(row) > 1 for row in split):
            return _checked(split, True, {}, prefix)
    return _checked([[_symbol(cell, types, prefix) for cell in value]], False, types, prefix)


def _symbol(cell: Any, types: dict[str, str], prefix: str) -> str:
    """The symbol of an item of a list. Whole numbers have one symbol however they are written: 5 and 5.0."""
    if isinstance(cell, str):
        symbol, kind = unicodedata.normalize("NFC", cell), "a text"
    elif isinstance(cell, list | dict):
        raise UserError(f"{prefix}{shown(cell)} is no cell: a cell is a text, a number, true, false or null")
    elif isinstance(cell, float):
        if not math.isfinite(cell):
            raise UserError(f"{prefix}the cell {cell} is no finite number: write null, or a symbol of your own")
        symbol, kind = str(int(cell)) if cell.is_integer() else repr(cell), "a number"
    else:
        symbol = json.dumps(cell)
        kind = "a number" if isinstance(cell, int) and not isinstance(cell, bool) else symbol
    if types.setdefault(symbol, kind) != kind:
        raise UserError(two_types(symbol, types[symbol], kind, prefix))
    return symbol


def two_types(symbol: str, first: str, second: str, prefix: str) -> str:
    """Says that a symbol occurs with two types of JSON."""
    return (
        f"{prefix}the cell {shown(symbol)} is {second} here and {first} elsewhere: write it in one way, because both "
        "are the same symbol"
    )


def _checked(rows: list[list[str]], has_rows: bool, types: dict[str, str] | None, prefix: str) -> Board:
    if not rows or not any(rows):
        raise UserError(f"{prefix}there are no cells")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{prefix}row {number} has {count(len(row))}, row 1 has {len(rows[0])}: all rows have the same length"
            )
        for symbol in row:
            check_visible(symbol, f"{prefix}row {number}: " if has_rows else prefix)
    return Board(rows, has_rows, types)


def check_visible(symbol: str, prefix: str) -> None:
    """Raises a UserError if a symbol has control characters, or nothing but characters that no reader sees."""
    if symbol.isascii() and symbol.isprintable():
        return
    kinds = {unicodedata.category(character) for character in symbol}
    if "Cc" in kinds or kinds <= {"Cf", "Zl", "Zp"}:
        codes = " ".join(f"U+{ord(character):04X}" for character in symbol[:4])
        raise UserError(f"{prefix}{shown(symbol)} ({codes}) is not visible and cannot be a cell: remove it")


def count(cells: int) -> str:
    """A number of cells with its noun."""
    return f"{cells:,} cell{'s' * (cells != 1)}"


def write_text(symbols: Sequence[str], shape: Shape, separator: str, like: str) -> str:
    """Symbols as text, in rows if the text ``like`` has rows."""
    if "\n" in like.strip("\n") and len(shape) == 2:
        rows = [symbols[i : i + shape[1]] for i in range(0, len(symbols), shape[1])]
    else:
        rows = [symbols]
    if separator == " ":
        joint = "\t" if "\t" in like else " "
    else:
        joint = separator + " " * (bool(separator) and separator + " " in like)
    return "\n".join(joint.join(row) for row in rows)


def write_list(symbols: Sequence[str], shape: Shape, like: Sequence[Any]) -> str:
    """Symbols as JSON, in the form of the list ``like``: of rows, of rows as text, or of cells. Numbers are written as
    numbers unless ``like`` writes them as text."""
    types: dict[str, str] = {}
    rows_as_text = not any(isinstance(row, list) for row in like) and any(
        isinstance(row, str) and len(characters(row)) > 1 for row in like
    )
    leaves = _leaves(list(like))
    for leaf in leaves:
        _symbol(leaf, types, "")
    as_text = any(types.get(symbol) == "a text" and _number(symbol) is not None for symbol in types)
    flat = [symbol if as_text else _plain(symbol) for symbol in symbols]
    in_rows = len(shape) == 2 and (rows_as_text or isinstance(like[0], list))
    if not in_rows:
        return json.dumps(flat, ensure_ascii=False)
    width = shape[1]
    if rows_as_text and all(len(characters(symbol)) == 1 for symbol in symbols):
        return json.dumps(["".join(symbols[i : i + width]) for i in range(0, len(symbols), width)], ensure_ascii=False)
    return json.dumps([flat[i : i + width] for i in range(0, len(flat), width)], ensure_ascii=False)


def _plain(symbol: str) -> Any:
    named = {"null": None, "true": True, "false": False}
    number = _number(symbol)
    return named.get(symbol, symbol) if number is None else number


def _number(symbol: str) -> int | float | None:
    """The number that a symbol writes as JSON writes it; None if it is no number."""
    try:
        value = json.loads(symbol)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
