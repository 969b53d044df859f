"""Converts values to the symbols that a model writes: words of the conversation, vocabulary pieces, and marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from trm_fast.labels import ArgumentKind
from trm_fast.tasks.tool_calling.data.validation import fits
from trm_fast.tasks.tool_calling.text.finding import (
    MAX_NUMBER_WORDS,
    MAX_READING_WORDS,
    READINGS,
    Span,
    TurnWords,
    literal_span,
    occurrences,
    reading_span,
)
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer
from trm_fast.tasks.tool_calling.text.values import bracketed, cast, json_type, literal_list, same

MARKS = (DEFAULT, DATE, SINGULAR) = ("default", "date", "singular")
"""The mark of the schema's default, and those that say that the next words are read as an ISO date or a singular."""
_READ_FUNCTIONS = {DATE: READINGS[ArgumentKind.DATE], SINGULAR: READINGS[ArgumentKind.SINGULAR]}

Symbol = str | int
"""A word of the conversation, case-folded, or the id of a piece or a mark."""


class ValueCodec:
    """Turns values into symbols and symbols into values. ``turns`` are the words of the conversation, in order."""

    def __init__(self, turns: Sequence[TurnWords], tokenizer: Tokenizer, vocab_size: int) -> None:
        self.turns, self.tokenizer = list(turns), tokenizer
        self.marks = {name: vocab_size + i for i, name in enumerate(MARKS)}

    def encode(self, value: Any, schema: Mapping[str, Any]) -> list[list[Symbol]]:
        """The symbols of a value, as items: one item, or one for each element of a list that the conversation does not
        write out.

        An item is the words of the latest turn that has the value, else the mark of the default, else words that are
        read as the value, else pieces of the vocabulary.
        """
        if isinstance(value, list) and (literal := self._latest(partial(literal_span, value=value))) is not None:
            return [literal]
        if (default := schema_default(schema)) is not None and same(default, value) and not self._occurs(value, schema):
            return [[self.marks[DEFAULT]]]
        if isinstance(value, list):
            return [self._item(part, schema.get("items") or {}) for part in value]
        return [self._item(value, schema)]

    def _latest(self, find: Callable[[TurnWords], Span | None]) -> list[Symbol] | None:
        """The words of the span that ``find`` returns for the latest turn in which it finds one."""
        for turn in reversed(self.turns):
            if (span := find(turn)) is not None:
                return list(turn.folded[span[0] : span[1] + 1])
        return None

    def _occurs(self, value: Any, schema: Mapping[str, Any]) -> bool:
        parts = value if isinstance(value, list) else [value]
        inner = (schema.get("items") or {}) if isinstance(value, list) else schema
        return bool(parts) and all(self._words(part, inner) is not None for part in parts)

    def _item(self, value: Any, schema: Mapping[str, Any]) -> list[Symbol]:
        words = self._words(value, schema)
        if words is not None:
            return words
        if isinstance(value, str) and json_type(schema) == "string" and not schema.get("enum"):
            for mark, read in _READ_FUNCTIONS.items():
                if (words := self._latest(partial(reading_span, value=value, read=read))) is not None:
                    return [self.marks[mark], *words]
        return list(self.tokenizer.ids(value_text(value)))

    def _words(self, value: Any, schema: Mapping[str, Any]) -> list[Symbol] | None:
        if isinstance(value, bool | list | Mapping) or value is None:
            return None

        def shortest(turn: TurnWords) -> Span | None:
            return min(occurrences(turn, value, schema), key=lambda span: span[1] - span[0], default=None)

        return self._latest(shortest)

    def text(self, symbols: Sequence[Symbol]) -> str:
        """The text of symbols: words as the conversation writes them, pieces as the tokenizer decodes them."""
        words = [symbol for symbol in symbols if isinstance(symbol, str)]
        if not words:
            marks = self.marks.values()
            return self.tokenizer.decode(i for i in symbols if isinstance(i, int) and i not in marks).strip()
        for turn in reversed(self.turns):
            for first in turn.positions(words):
                return turn.span_text(first, first + len(words) - 1)
        return " ".join(words)

    def decode(self, symbols: Sequence[Symbol], schema: Mapping[str, Any]) -> Any:
        """The value of one item."""
        if symbols[:1] == [self.marks[DEFAULT]]:
            return schema_default(schema)
        text = self.text(symbols)
        for mark, read in _READ_FUNCTIONS.items():
            if symbols[:1] == [self.marks[mark]]:
                return read(text) or text
        return parse_value(text, schema)

    def following(self, words: Sequence[str]) -> list[str]:
        """The words that follow ``words`` in the conversation; all its words if ``words`` is empty."""
        if not words:
            return list(dict.fromkeys(word for turn in self.turns for word in turn.folded))
        next_words = [
            turn.folded[first + len(words)]
            for turn in self.turns for first in turn.positions(words) if first + len(words) < len(turn)
        ]  # fmt: skip
        return list(dict.fromkeys(next_words))

    def numbers(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """The spans that can be read as a number of a schema's type."""
        return self._fitting_spans(
            lambda turn: turn.short_spans(MAX_NUMBER_WORDS), lambda text: cast(text, schema) is not None
        )

    def readable(self, mark: str) -> list[tuple[str, ...]]:
        """The spans that a mark's reading function can read."""
        return self._fitting_spans(
            lambda turn: turn.short_spans(MAX_READING_WORDS), lambda text: _READ_FUNCTIONS[mark](text) is not None
        )

    def literals(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """The spans that write a list which is valid against a schema."""

        def fitting(text: str) -> bool:
            literal = literal_list(text)
            return literal is not None and fits(literal, schema)

        return self._fitting_spans(lambda turn: bracketed(turn.folded), fitting)

    def _fitting_spans(
        self, spans: Callable[[TurnWords], Iterable[Span]], fitting: Callable[[str], bool]
    ) -> list[tuple[str, ...]]:
        """The distinct spans whose text fits."""
        found_spans: dict[tuple[str, ...], None] = {}
        for turn in self.turns:
            for first, last in spans(turn):
                if fitting(turn.span_text(first, last)):
                    found_spans[tuple(turn.folded[first : last + 1])] = None
        return list(found_spans)


def schema_default(schema: Mapping[str, Any]) -> Any:
    """The default of a schema as a value of its type, also if it is written as text; None if there is no valid one."""
    if schema.get("default") is None:
        return None
    default = _cached_default(json.dumps(schema))
    return default and json.loads(default)


@lru_cache(maxsize=1 << 14)
def _cached_default(text: str) -> str | None:
    """``schema_default`` from and to JSON text, so that it can be cached: a few defaults are needed very often."""
    schema = json.loads(text)
    for default in (schema["default"], cast(str(schema["default"]), schema)):
        if default is not None and fits(default, schema):
            return json.dumps(default)
    return None


def value_text(value: Any) -> str:
    """A value as the text that pieces spell: a string itself, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse_value(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that ``text`` writes: one of the schema's choices, a string, a number, or the value of the JSON
    text."""
    for choice in schema.get("enum") or []:
        if value_text(choice).casefold() == text.casefold():
            return choice
    if json_type(schema) == "string":
        return text
    if json_type(schema) in ("integer", "number") and (number := cast(text, schema)) is not None:
        return number
    try:
        return json.loads(text)
    except ValueError:
        return text


def joined(items: Iterable[Sequence[Symbol]], separator: int) -> list[Symbol]:
    """The symbols of items, with a mark between them."""
    symbols: list[Symbol] = []
    for i, item in enumerate(items):
        symbols += [separator, *item] if i else item
    return symbols
