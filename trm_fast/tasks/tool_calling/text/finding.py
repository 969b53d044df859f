"""Finds the spans of a turn's words that express a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trm_fast.labels import ArgumentKind
from trm_fast.tasks.tool_calling.text.lexicon import words
from trm_fast.tasks.tool_calling.text.values import (
    NUMBER_WORDS,
    bracketed,
    cast,
    json_type,
    literal_list,
    parse_date,
    same,
    singular,
)

Span = tuple[int, int]
"""The indices of the first and the last word."""
READINGS: dict[int, Callable[[str], str | None]] = {ArgumentKind.DATE: parse_date, ArgumentKind.SINGULAR: singular}
"""By kind, the functions that read a value from words which do not spell it. They return None for other words."""
MAX_READING_WORDS = 7
"""The maximum number of words that a reading function gets."""
MAX_NUMBER_WORDS = 4
"""The maximum number of words that are read as a number, such as ``- $ 3 million``."""


@dataclass(frozen=True)
class TurnWords:
    """The words of a turn. ``spans`` has the (begin, end) characters of each word in the text."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> TurnWords:
        """All words of a text."""
        return cls(text, words(text))

    @cached_property
    def folded(self) -> list[str]:
        """The words, case-folded for comparison."""
        return [self.text[begin:end].casefold() for begin, end in self.spans]

    def __len__(self) -> int:
        return len(self.spans)

    def span_text(self, first: int, last: int) -> str:
        """The text from the first to the last word of a span."""
        return self.text[self.spans[first][0] : self.spans[last][1]]

    def short_spans(self, max_words: int) -> Iterator[Span]:
        """All spans of up to ``max_words`` words."""
        for first in range(len(self)):
            for last in range(first, min(first + max_words, len(self))):
                yield first, last

    def positions(self, sequence: Sequence[str]) -> Iterator[int]:
        """The index of each occurrence of consecutive words, which must be case-folded."""
        n = len(sequence)
        for i, word in enumerate(self.folded):
            if word == sequence[0] and self.folded[i : i + n] == list(sequence):
                yield i


def literal_span(turn: TurnWords, value: list[Any]) -> Span | None:
    """The span that writes a list in JSON or Python; None if there is none."""
    for first, last in bracketed(turn.folded):
        if (literal := literal_list(turn.span_text(first, last))) is not None and same(literal, value):
            return first, last
    return None


def reading_span(turn: TurnWords, value: str, read: Callable[[str], str | None]) -> Span | None:
    """The first span that ``read`` turns into a value, the longest one from its first word; None if there is none."""
    for first in range(len(turn)):
        for last in range(min(first + MAX_READING_WORDS, len(turn)) - 1, first - 1, -1):
            reading = read(turn.span_text(first, last))
            if reading is not None and same(reading, value):
                return first, last
    return None


def occurrences(turn: TurnWords, value: Any, schema: Mapping[str, Any]) -> list[Span]:
    """The spans that express a value. Those that match it exactly, including case, come first."""
    if isinstance(value, str) and json_type(schema) not in ("integer", "number"):
        begins = {begin: i for i, (begin, _) in enumerate(turn.spans)}
        ends = {end: i for i, (_, end) in enumerate(turn.spans)}
        matches = re.finditer(re.escape(value.strip()), turn.text, re.IGNORECASE) if value.strip() else ()
        spans = [(begins[m.start()], ends[m.end()]) for m in matches if m.start() in begins and m.end() in ends]
        return sorted(spans, key=lambda span: turn.span_text(*span) != value)
    numeric = schema if json_type(schema) in ("integer", "number") else {"type": "number"}
    spans = []
    for first in range(len(turn)):
        if not _may_begin_number(turn.span_text(first, first)):
            continue
        for last in range(min(first + MAX_NUMBER_WORDS, len(turn)) - 1, first - 1, -1):
            number = cast(turn.span_text(first, last), numeric)
            if number is not None and same(number, value):
                spans.append((first, last))
                break
    return spans


def _may_begin_number(word: str) -> bool:
    return word[0].isdigit() or word in "+-$€£¥" or word.lower() in NUMBER_WORDS
