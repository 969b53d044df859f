"""The layout of a task's puzzles, and how it is inferred from data: shapes, separator and symbols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

from trm_fast.errors import UserError, cut, shown
from trm_fast.tasks.grid.cells import (
    SEPARATORS,
    Board,
    Shape,
    board_of_list,
    board_of_text,
    characters,
    count,
    list_in,
    looks_like_list,
    printed_list,
    two_types,
)

MAX_SYMBOLS = 4096
"""The largest number of symbols that is inferred. More of them are most likely measured numbers or sentences."""

CHOICE = (
    "set task.separator: an empty text if each character is a cell, otherwise what separates the cells, such as a space"
)


@dataclass(frozen=True)
class Field:
    """The text of a question or an answer, and its place in the data. ``name`` is ``question`` or ``answer``."""

    text: str
    name: str
    where: str

    @property
    def prefix(self) -> str:
        """What messages start with."""
        return f"{self.where}: the {self.name}: " if self.where else f"the {self.name}: "


@dataclass(frozen=True)
class Layout:
    """How cells are written, and the shapes of question and answer.

    ``separator`` is empty if each character is a cell.
    """

    separator: str
    question: Shape
    answer: Shape

    def shape_of(self, field: Field) -> Shape:
        """The shape that a field must have."""
        return self.question if field.name == "question" else self.answer

    def board(self, field: Field) -> Board:
        """The cells of a field.

        Raises:
            UserError: it is malformed, or has another shape.
        """
        expected = self.shape_of(field)
        board = read_board(field, self.separator, size(expected))
        wrong = len(board.cells) != size(expected)
        wrong |= board.has_rows and len(expected) == 2 and board.shape != expected
        if wrong:
            key = "task.shape" if field.name == "question" or self.answer == self.question else "task.answer_shape"
            raise UserError(f"{field.prefix}{shape_text(board.shape)}, expected {shape_text(expected)} ({key})")
        return board


def size(shape: Shape) -> int:
    """The number of cells."""
    return shape[0] * (shape[1] if len(shape) == 2 else 1)


def shape_text(shape: Shape) -> str:
    """A shape in words.

    Examples:
        >>> shape_text((2, 3)), shape_text((7,))
        ('2 x 3 cells', '7 cells')
    """
    return f"{shape[0]} x {shape[1]} cells" if len(shape) == 2 else count(shape[0])


def read_board(field: Field, separator: str, cells: int | None = None) -> Board:
    """The cells of a field, which is a list or text. Brackets may be symbols themselves: of a text that could be both,
    the reading with the expected number of ``cells`` is taken.

    Raises:
        UserError: it is malformed.
    """
    items = list_in(field.text)
    if items is None:
        return board_of_text(field.text, separator, field.prefix)
    if cells is not None and not separator and len(characters(field.text)) == cells:
        return board_of_text(field.text, separator, field.prefix)
    return board_of_list(items, separator, field.prefix)


def infer_layout(
    fields: Sequence[Field], separator: str | None, shape: Shape | None, answer_shape: Shape | None, listed: bool
) -> Layout:
    """The layout of all fields.

    A text may be read in several ways. Only a reading in which all questions have one shape, and all answers have one
    shape, is possible. If several are possible and differ, none is guessed.

    Args:
        fields: all questions and answers.
        separator, shape, answer_shape: what is known already, else None.
        listed: whether the symbols are known, so that items of lists need not be told from rows.

    Raises:
        UserError: no reading is possible, or several are.
    """
    if separator is None:
        lists = [list_in(field.text) for field in fields]
        if all(items is not None for items in lists):
            separator = _list_separator(fields, [items for items in lists if items is not None], listed)
        else:
            separator = _text_separator(fields)
    shapes = {name: _common_shape([f for f in fields if f.name == name], separator) for name in ("question", "answer")}
    question, answer = shapes["question"], shapes["answer"]
    if shape is not None:
        answer = shape if answer == question or (size(answer) == size(shape) and len(answer) == 1) else answer
        question = shape
    layout = Layout(separator, question, answer_shape or answer)
    for field in fields:
        layout.board(field)  # raises an error for one with another shape than the known one
    return layout


def _common_shape(fields: Sequence[Field], separator: str) -> Shape:
    first: Shape | None = None
    for field in fields:
        board = read_board(field, separator)
        first = first or board.shape
        if board.shape != first:
            how = "each character is a cell" if not separator else f"cells are separated by {shown(separator)}"
            raise UserError(
                f"{field.prefix}{shape_text(board.shape)}, but {shape_text(first)} in {fields[0].where} ({how}): all "
                f"{field.name}s must have one length; fill shorter ones up with a symbol of your own"
            )
    assert first is not None
    return first


def _text_separator(fields: Sequence[Field]) -> str:
    """The separator of fields as text.

    Raises:
        UserError: no reading is possible, or several are.
    """
    texts = [field for field in fields if list_in(field.text) is None]
    for field in texts:
        if looks_like_list(field.text):
            raise UserError(f"{field.prefix}{printed_list(field.text)}; {CHOICE}")
    used = [s for s in SEPARATORS if any(s in field.text for field in texts if field.name == "question")]
    possible = [s for s in used if _possible(fields, s) and not _mixed(fields, s)]
    if not _possible(fields, ""):
        if len(possible) == 1:
            return possible[0]
        if not possible:
            _common_shapes(fields, used[0] if used else "")
            raise UserError(f"{fields[0].where}: cells are separated in several ways; {CHOICE}")
    elif not possible:
        return ""
    elif len(possible) == 1 and all(len(characters(w)) == 1 for f in fields for w in read_board(f, possible[0]).cells):
        return possible[0]  # a separator at every second place tells nothing, so that no other reading has more
    raise UserError(f"{fields[0].where}: cells may be characters or words here, {shown(fields[0].text)}; {CHOICE}")


def _common_shapes(fields: Sequence[Field], separator: str) -> None:
    for name in ("question", "answer"):
        _common_shape([field for field in fields if field.name == name], separator)


def _possible(fields: Sequence[Field], separator: str) -> bool:
    try:
        _common_shapes(fields, separator)
    except UserError:
        return False
    return True


def _mixed(fields: Sequence[Field], separator: str) -> bool:
    """Whether words contain another separator, so that this one is not what separates the cells."""
    others = [s for s in SEPARATORS if s != separator and (separator, s) != (" ", "\t")]
    return any(s in word for field in fields for word in read_board(field, separator).cells for s in others)


def _list_separator(fields: Sequence[Field], lists: Sequence[Sequence[Any]], listed: bool) -> str:
    """The separator of typed questions, for fields that are lists.

    Raises:
        UserError: texts in the lists could be cells or rows of cells.
    """
    flat = [items for items in lists if not any(isinstance(item, list) for item in items)]
    texts = [item for items in flat for item in items if isinstance(item, str)]
    lengths = {len(characters(text)) for text in texts}
    if not listed and texts and lengths != {1}:
        divided = next((text for text in texts if any(s in text.strip() for s in SEPARATORS)), None)
        only_rows = len(lengths) == 1 and all(isinstance(item, str) for items in flat for item in items)
        if only_rows or divided is not None:
            raise UserError(
                f"{fields[0].where}: {shown(divided or texts[0])} may be a cell or a row of cells: write rows as lists "
                f'of cells, or set task.separator: "" if each character is a cell, or " " if each item is a cell'
            )
    symbols = {
        symbol for field in fields for symbol in board_of_list(list_in(field.text) or [], " ", field.prefix).cells
    }
    if all(len(characters(symbol)) == 1 for symbol in symbols):
        return ""
    free = [s for s in SEPARATORS if not any(s in symbol or (s == " " and not symbol) for symbol in symbols)]
    return free[0] if free else " "


def infer_symbols(boards: Iterable[tuple[Field, Board]]) -> tuple[str, ...]:
    """The symbols of all boards: numbers by value, then texts.

    Raises:
        UserError: there are more than ``MAX_SYMBOLS``.
    """
    symbols: set[str] = set()
    for field, board in boards:
        symbols.update(board.cells)
        if len(symbols) > MAX_SYMBOLS:
            raise UserError(
                f"{field.where}: there are more than {MAX_SYMBOLS:,} different cells so far; the task grid learns "
                "symbols, not measured numbers or sentences (list them in task.vocabulary if they are symbols)"
            )
    return tuple(sorted(symbols, key=_order))


def _order(symbol: str) -> tuple[int, int, str]:
    plain = symbol.removeprefix("-")
    whole = plain.isascii() and plain.isdecimal() and len(plain) < 19
    return (0, int(symbol), symbol) if whole else (1, 0, symbol)


class Types:
    """Checks that no symbol occurs as a text in one list and as a number in another."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def check(self, field: Field, board: Board) -> None:
        """Raises a UserError if a symbol has another type than before."""
        for symbol, kind in (board.types or {}).items():
            if self.seen.setdefault(symbol, kind) != kind:
                raise UserError(two_types(symbol, kind, self.seen[symbol], field.prefix))


def describe(layout: Layout, vocabulary: Sequence[str]) -> str:
    """The layout and the symbols in words."""
    text = shape_text(layout.question)
    if len(layout.question) == 1 and (side := isqrt(layout.question[0])) ** 2 == layout.question[0] and side > 1:
        text += f" in a line (task.shape: [{side}, {side}] if they are a grid)"
    if layout.answer != layout.question:
        text += f", answers of {shape_text(layout.answer)}"
    how = f", separated by {shown(layout.separator)}" if layout.separator else ""
    listed = " ".join(symbol if symbol.strip() else shown(symbol) for symbol in vocabulary)
    return f"{text}{how}; {len(vocabulary)} symbols: {cut(listed, 120)}"
