"""Values as the symbols that a causal model writes: words of the conversation, pieces of the vocabulary, and marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from trm_fast.labels import ArgumentKind
from trm_fast.tasks.tool_calling.data.validation import fits
from trm_fast.tasks.tool_calling.text.finding import (
    LONGEST_NUMBER,
    LONGEST_READING,
    READINGS,
    Span,
    TurnWords,
    literal_span,
    occurrences,
    reading_span,
)
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer
from trm_fast.tasks.tool_calling.text.values import bracketed, cast, kind_of, literal_list, same

MARKS = (DEFAULT, DATE, SINGULAR) = ("default", "date", "singular")
"""What may be written beside text: the schema's default; that the words behind it are to be read as an ISO date, or
without their plural."""
_READ = {DATE: READINGS[ArgumentKind.DATE], SINGULAR: READINGS[ArgumentKind.SINGULAR]}

Symbol = str | int
"""A word of the conversation, folded; or the id of a piece or mark."""


class ValueCodec:
    """Values as symbols and symbols as values. ``turns``: what stands in the conversation, in order."""

    def __init__(self, turns: Sequence[TurnWords], tokenizer: Tokenizer, vocab_size: int) -> None:
        self.turns, self.tokenizer = list(turns), tokenizer
        self.marks = {name: vocab_size + i for i, name in enumerate(MARKS)}

    def encode(self, value: Any, schema: Mapping[str, Any]) -> list[list[Symbol]]:
        """A value as items, one but for a list that is not written out: words as they stand in the latest turn, else
        its default, else words that are to be read as it, else pieces of the vocabulary."""
        if isinstance(value, list) and (literal := self._latest(partial(literal_span, value=value))) is not None:
            return [literal]
        if (default := default_of(schema)) is not None and same(default, value) and not self._stands(value, schema):
            return [[self.marks[DEFAULT]]]
        if isinstance(value, list):
            return [self._item(part, schema.get("items") or {}) for part in value]
        return [self._item(value, schema)]

    def _latest(self, find: Callable[[TurnWords], Span | None]) -> list[Symbol] | None:
        """The words that are found in the latest turn that has any."""
        for turn in reversed(self.turns):
            if (span := find(turn)) is not None:
                return list(turn.folded[span[0] : span[1] + 1])
        return None

    def _stands(self, value: Any, schema: Mapping[str, Any]) -> bool:
        parts = value if isinstance(value, list) else [value]
        inner = (schema.get("items") or {}) if isinstance(value, list) else schema
        return bool(parts) and all(self._words(part, inner) is not None for part in parts)

    def _item(self, value: Any, schema: Mapping[str, Any]) -> list[Symbol]:
        words = self._words(value, schema)
        if words is not None:
            return words
        if isinstance(value, str) and kind_of(schema) == "string" and not schema.get("enum"):
            for mark, read in _READ.items():
                if (words := self._latest(partial(reading_span, value=value, read=read))) is not None:
                    return [self.marks[mark], *words]
        return list(self.tokenizer.ids(written(value)))

    def _words(self, value: Any, schema: Mapping[str, Any]) -> list[Symbol] | None:
        if isinstance(value, bool | list | Mapping) or value is None:
            return None

        def shortest(turn: TurnWords) -> Span | None:
            return min(occurrences(turn, value, schema), key=lambda span: span[1] - span[0], default=None)

        return self._latest(shortest)

    def text(self, symbols: Sequence[Symbol]) -> str:
        """The text of symbols: words as they stand in the conversation, pieces as the tokenizer has them."""
        words = [symbol for symbol in symbols if isinstance(symbol, str)]
        if not words:
            marks = self.marks.values()
            return self.tokenizer.decode(i for i in symbols if isinstance(i, int) and i not in marks).strip()
        for turn in reversed(self.turns):
            for first in turn.positions(words):
                return turn.cut(first, first + len(words) - 1)
        return " ".join(words)

    def decode(self, symbols: Sequence[Symbol], schema: Mapping[str, Any]) -> Any:
        """The value that an item stands for."""
        if symbols[:1] == [self.marks[DEFAULT]]:
            return default_of(schema)
        text = self.text(symbols)
        for mark, read in _READ.items():
            if symbols[:1] == [self.marks[mark]]:
                return read(text) or text
        return value_of(text, schema)

    def following(self, words: Sequence[str]) -> list[str]:
        """Words that stand behind some words; all of them behind none."""
        if not words:
            return list(dict.fromkeys(word for turn in self.turns for word in turn.folded))
        behind = [
            turn.folded[first + len(words)]
            for turn in self.turns for first in turn.positions(words) if first + len(words) < len(turn)
        ]  # fmt: skip
        return list(dict.fromkeys(behind))

    def numbers(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Words that can be read as a number of a schema."""
        return self._runs(lambda turn: turn.runs(LONGEST_NUMBER), lambda text: cast(text, schema) is not None)

    def readable(self, mark: str) -> list[tuple[str, ...]]:
        """Words that can be read as a mark says."""
        return self._runs(lambda turn: turn.runs(LONGEST_READING), lambda text: _READ[mark](text) is not None)

    def literals(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Words that are a list of a schema, written out."""

        def fitting(text: str) -> bool:
            literal = literal_list(text)
            return literal is not None and fits(literal, schema)

        return self._runs(lambda turn: bracketed(turn.folded), fitting)

    def _runs(
        self, spans: Callable[[TurnWords], Iterable[Span]], fitting: Callable[[str], bool]
    ) -> list[tuple[str, ...]]:
        """The runs of words whose text fits, each once."""
        runs: dict[tuple[str, ...], None] = {}
        for turn in self.turns:
            for first, last in spans(turn):
                if fitting(turn.cut(first, last)):
                    runs[tuple(turn.folded[first : last + 1])] = None
        return list(runs)


def default_of(schema: Mapping[str, Any]) -> Any:
    """A schema's default as a value of its type, also where it is written as text; None where it is none."""
    if schema.get("default") is None:
        return None
    default = _default_of(json.dumps(schema))
    return default and json.loads(default)


@lru_cache(maxsize=1 << 14)
def _default_of(text: str) -> str | None:
    """From and to JSON: a row asks for the same few defaults again and again."""
    schema = json.loads(text)
    for default in (schema["default"], cast(str(schema["default"]), schema)):
        if default is not None and fits(default, schema):
            return json.dumps(default)
    return None


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that is written as ``text``: a choice as it stands, a string as it is, a number, all else from JSON."""
    for choice in schema.get("enum") or []:
        if written(choice).casefold() == text.casefold():
            return choice
    if kind_of(schema) == "string":
        return text
    if kind_of(schema) in ("integer", "number") and (number := cast(text, schema)) is not None:
        return number
    try:
        return json.loads(text)
    except ValueError:
        return text


def flattened(items: Iterable[Sequence[Symbol]], between: int) -> list[Symbol]:
    """Items with a mark between them."""
    symbols: list[Symbol] = []
    for i, item in enumerate(items):
        symbols += [between, *item] if i else item
    return symbols
