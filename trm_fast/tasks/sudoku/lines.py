"""Splits a text into lines, and tells rows of cells from frames, captions, comments and empty lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import NamedTuple

from trm_fast.tasks.columns import QUESTION
from trm_fast.tasks.sudoku.cells import is_cell

MARKS = "-*"
"""Characters that are blanks in some texts and a part of the frame in others."""

CAPTION_WORDS = {
    *QUESTION, "game", "level", "no", "nr", "number", "difficulty", "easy", "medium", "hard", "expert", "extreme",
    "evil", "diabolical", "fiendish", "simple", "version",
}  # fmt: skip
"""The words of captions, such as ``Grid 01`` and ``Simple Sudoku``. A line with another word is refused."""

_VERTICALS = {ord(c): "|" for c in "│┃║┆┇┊┋╎╏"}
_BORDERS = dict.fromkeys((*range(0x2500, 0x2580), *map(ord, "|\"'")), " ")
_DELIMITERS = {ord(c): " " for c in ",;"}
_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|$)")
_LIST = re.compile(r"[\[({]([^][(){}:]*)[\])}]")
_LISTS = re.compile(r"\s*(?:(?:np\.|numpy\.)?(?:array|matrix)\()?[\[({]")
_AROUND_LISTS = re.compile(r"\s*(?:(?:np\.|numpy\.)?(?:array|matrix)\()?[][(){},;\s]*(?:dtype=[\w'.<]+[)\s]*)?")
_COMMENT = re.compile(r"(?:^|\s+)#.*")
_FRAME = re.compile(r"[-=+*|.:'\s\u2500-\u257f]+")
_HORIZONTAL = re.compile("[+=\u2500-\u257f]|-[^-]*[*.:']|[*.:'][^-]*-")


class Cell(NamedTuple):
    """A word that stands for one cell, and its place in the text."""

    word: str
    start: int
    end: int


class Kind(Enum):
    """What a line is. ``MARKS``: only dashes or only stars, which are blanks or a part of the frame."""

    EMPTY = auto()
    CAPTION = auto()
    FRAME = auto()
    MARKS = auto()
    ROW = auto()


@dataclass(frozen=True)
class Line:
    """A line without its comment, its number from 1, its place in the text, and the size of the puzzles.

    ``margin`` is the number of brackets on each side.
    """

    number: int
    start: int
    content: str
    size: int
    margin: int = 0

    @property
    def outer(self) -> tuple[int, int]:
        """Where the line with its brackets starts and ends in the text."""
        return self.start - self.margin, self.start + len(self.content) + self.margin

    @cached_property
    def kind(self) -> Kind:
        """What the line is, by its characters."""
        if not self.content.strip():
            return Kind.ROW if self.content.count("\t") >= self.size - 1 else Kind.EMPTY
        words = {word.lower() for word in re.findall(r"\b[^\W\d_]+", self.content)}
        if words and words <= CAPTION_WORDS and sum(map(str.isdecimal, self.content)) < self.size:
            return Kind.CAPTION
        if self.marks:
            return Kind.MARKS
        frame = _FRAME.fullmatch(self.content) and _HORIZONTAL.search(self.content)
        return Kind.FRAME if frame else Kind.ROW

    @cached_property
    def marks(self) -> str:
        """The marks of a line that has nothing else but vertical bars; empty for other lines."""
        rest = re.sub(r"[\s|]", "", self.content)
        return rest if rest and rest[0] in MARKS and set(rest) == {rest[0]} else ""

    @cached_property
    def words(self) -> list[Cell]:
        """What spaces, commas and borders separate."""
        content = self.content.translate(_BORDERS).translate(_DELIMITERS)
        return [Cell(m[0], self.start + m.start(), self.start + m.end()) for m in re.finditer(r"\S+", content)]

    def cells(self, separators: str = "") -> list[Cell]:
        """The result of ``_cells``, which is computed once for each set of separators."""
        if separators not in self._readings:
            self._readings[separators] = self._cells(separators)
        return self._readings[separators]

    @cached_property
    def _readings(self) -> dict[str, list[Cell]]:
        return {}

    def _cells(self, separators: str) -> list[Cell]:
        """The cells of a row or of a whole puzzle: its fields, its words or its characters, whichever fit.

        The marks in ``separators`` separate cells, all others are cells. An empty field is a blank. Words of several
        characters must have the same length. Where nothing fits, the result has another number of cells.
        """
        counts = self.size, self.size**2
        fields = self._fields
        for cells in (fields, self.words):
            kept = [cell for cell in cells if not (cell.word and cell.word in separators)]
            if len(kept) in counts and all(is_cell(cell.word) for cell in kept):
                return kept
        if any(not field.word for field in fields[:-1]):
            return fields
        characters = self.characters(separators)
        uneven = len({len(word.word) for word in self.words}) > 1
        return [] if uneven and len(characters) in counts else characters

    def characters(self, separators: str = "") -> list[Cell]:
        """All characters but spaces, commas and borders."""
        content = self.content.translate(_BORDERS).translate(_DELIMITERS)
        if all(word.word != "-1" for word in self.words):
            content = content.translate({ord(c): " " for c in separators})
        return [Cell(c, self.start + i, self.start + i + 1) for i, c in enumerate(content) if not c.isspace()]

    @property
    def has_puzzles_in_fields(self) -> bool:
        """Whether one of several fields has as many characters as a puzzle has cells."""
        return len(self._fields) > 1 and any(len(field.word) == self.size**2 for field in self._fields)

    @property
    def width(self) -> int:
        """The number of fields, with those after the last column."""
        return len(self._all_fields)

    @cached_property
    def _fields(self) -> list[Cell]:
        """The fields, without empty ones after the last column."""
        fields = self._all_fields
        for count in (self.size**2, self.size):
            if len(fields) >= count and not any(field.word for field in fields[count:]):
                return fields[:count]
        return fields

    @cached_property
    def _all_fields(self) -> list[Cell]:
        """What commas, semicolons, tabs or bars separate."""
        start, content = self.start, self.content.rstrip(" ")
        delimiter = next((d for d in ",;\t" if d in content), "|")
        if delimiter == "|" and (outer := re.fullmatch(r"\s*\|(.*)\|", content)):
            start, content = start + outer.start(1), outer[1]
        fields = []
        for field in content.split(delimiter):
            fields.append(_field(field, start))
            start += len(field) + 1
        return fields


def _field(field: str, start: int) -> Cell:
    """The word in a field. The place of an empty one is between its quotes, or in the middle of its spaces."""
    content = field.translate(_BORDERS)
    word = content.strip()
    if word:
        start += content.find(word)
        return Cell(word, start, start + len(word))
    if field.isspace():
        return Cell("", start + len(field) // 2, start + len(field) // 2 + 1)
    quote = re.match(r"\s*[\"']?", field)
    assert quote is not None
    return Cell("", start + quote.end(), start + quote.end())


def is_printed_list(text: str) -> bool:
    """Whether a text consists of lists in brackets, as JSON, numpy, C or Matlab write them."""
    return bool(_LISTS.match(text) and _AROUND_LISTS.fullmatch(_LIST.sub("", text)))


def lines_of(text: str, size: int) -> Iterator[Line]:
    """The lines of a text; if it consists of lists in brackets, the innermost of them.

    A comment ends a line, and a line with nothing but a comment is left out.
    """
    number, last, margin = 1, 0, int(is_printed_list(text))
    for match in (_LIST if margin else _LINE).finditer(text):
        number += len(re.findall(r"\r\n|\r|\n", text[last : match.start(1)]))
        last = match.start(1)
        content = _COMMENT.sub("", match[1]).translate(_VERTICALS)
        at_end = match.start() == len(text)
        if content.strip() or not (match[1].strip() or at_end):
            yield Line(number, match.start(1), content, size, margin)
