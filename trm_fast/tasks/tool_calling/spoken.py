"""Values as what a causal model says: words of the conversation, pieces of the vocabulary, and marks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trm_fast.labels import ArgumentKind
from trm_fast.tasks.tool_calling.calls import READINGS, _literal, _occurrences, _read_as
from trm_fast.tasks.tool_calling.lexical import words
from trm_fast.tasks.tool_calling.schema import fits
from trm_fast.tasks.tool_calling.selection import Request
from trm_fast.tasks.tool_calling.tokenizer import Tokenizer
from trm_fast.tasks.tool_calling.values import bracketed, cast, kind_of, literal_list, same

MARKS = (DEFAULT, DATE, SINGULAR) = ("default", "date", "singular")
"""What may be said beside text: the schema's default; that the words behind it are to be read as an ISO date, or
without their plural."""
_READ = {DATE: READINGS[ArgumentKind.DATE], SINGULAR: READINGS[ArgumentKind.SINGULAR]}
LONGEST_NUMBER = 4
"""Words: ``- $ 3 million``."""

Said = str | int
"""A word of the conversation, folded; or the id of a piece or mark."""


@dataclass(frozen=True)
class Heard:
    """The words of a turn: where they stand in its text, and as they are compared."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> Heard:
        return cls(text, words(text))

    @cached_property
    def words(self) -> list[str]:
        return [self.text[begin:end].casefold() for begin, end in self.spans]

    @cached_property
    def request(self) -> Request:
        return Request(self.text, self.spans, [], [], False)

    def cut(self, first: int, count: int) -> str:
        return self.text[self.spans[first][0] : self.spans[first + count - 1][1]]

    def places(self, wanted: Sequence[str]) -> Iterator[int]:
        """Where words stand one behind another."""
        n = len(wanted)
        for i, word in enumerate(self.words):
            if word == wanted[0] and self.words[i : i + n] == list(wanted):
                yield i


class Spoken:
    """What stands in a conversation (``heard``, its turns in order), and values as what is said of it."""

    def __init__(self, heard: Sequence[Heard], tokenizer: Tokenizer, vocab_size: int) -> None:
        self.heard, self.tokenizer = list(heard), tokenizer
        self.marks = {name: vocab_size + i for i, name in enumerate(MARKS)}

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)

    def of_value(self, value: Any, schema: Mapping[str, Any]) -> list[list[Said]]:
        """A value as items, one but for a list that is not written out: words as they were said last, else its default,
        else words that are to be read as it, else pieces of the vocabulary."""
        if isinstance(value, list) and (literal := self._written_out(value)) is not None:
            return [literal]
        if (default := default_of(schema)) is not None and same(default, value) and not self._stands(value, schema):
            return [[self.marks[DEFAULT]]]
        if isinstance(value, list):
            return [self._item(part, schema.get("items") or {}) for part in value]
        return [self._item(value, schema)]

    def _written_out(self, value: list[Any]) -> list[Said] | None:
        for heard in reversed(self.heard):
            if (span := _literal(heard.request, value)) is not None:
                return list(heard.words[span[0] : span[1] + 1])
        return None

    def _stands(self, value: Any, schema: Mapping[str, Any]) -> bool:
        parts = value if isinstance(value, list) else [value]
        inner = (schema.get("items") or {}) if isinstance(value, list) else schema
        return bool(parts) and all(self._words(part, inner) is not None for part in parts)

    def _item(self, value: Any, schema: Mapping[str, Any]) -> list[Said]:
        found = self._words(value, schema)
        if found is not None:
            return found
        if isinstance(value, str) and kind_of(schema) == "string" and not schema.get("enum"):
            for mark, read in _READ.items():
                for heard in reversed(self.heard):
                    if (span := _read_as(heard.request, value, read)) is not None:
                        return [self.marks[mark], *heard.words[span[0] : span[1] + 1]]
        return list(self.encode(written(value)))

    def _words(self, value: Any, schema: Mapping[str, Any]) -> list[Said] | None:
        if isinstance(value, bool | list | Mapping) or value is None:
            return None
        for heard in reversed(self.heard):
            spans = _occurrences(heard.request, value, dict(schema))
            if spans:
                first, last = min(spans, key=lambda s: s[1] - s[0])
                return list(heard.words[first : last + 1])
        return None

    def text(self, said: Sequence[Said]) -> str:
        """What was said: words as they stand in the conversation, pieces as the tokenizer has them."""
        wanted = [part for part in said if isinstance(part, str)]
        if not wanted:
            return self.tokenizer.decode(i for i in said if isinstance(i, int) and i not in self.marks.values()).strip()
        for heard in reversed(self.heard):
            for first in heard.places(wanted):
                return heard.cut(first, len(wanted))
        return " ".join(wanted)

    def read(self, said: Sequence[Said], schema: Mapping[str, Any]) -> Any:
        """The value that an item stands for."""
        if said[:1] == [self.marks[DEFAULT]]:
            return default_of(schema)
        text = self.text(said)
        for mark, read in _READ.items():
            if said[:1] == [self.marks[mark]]:
                return read(text) or text
        return value_of(text, schema)

    def following(self, said: Sequence[str]) -> list[str]:
        """Words that stand behind some words; all of them behind none."""
        if not said:
            return list(dict.fromkeys(word for heard in self.heard for word in heard.words))
        found = [
            heard.words[first + len(said)]
            for heard in self.heard for first in heard.places(said) if first + len(said) < len(heard.words)
        ]  # fmt: skip
        return list(dict.fromkeys(found))

    def numbers(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Words that can be read as a number of a schema."""
        found: dict[tuple[str, ...], None] = {}
        for heard in self.heard:
            for first in range(len(heard.spans)):
                for count in range(1, min(LONGEST_NUMBER, len(heard.spans) - first) + 1):
                    if cast(heard.cut(first, count), schema) is not None:
                        found[tuple(heard.words[first : first + count])] = None
        return list(found)

    def literals(self, schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Words that are a list of a schema, written out."""
        found: dict[tuple[str, ...], None] = {}
        for heard in self.heard:
            for first, last in bracketed(heard.words):
                made = literal_list(heard.cut(first, last + 1 - first))
                if made is not None and fits(made, schema):
                    found[tuple(heard.words[first : last + 1])] = None
        return list(found)

    def readable(self, mark: str) -> list[tuple[str, ...]]:
        """Words that can be read as a mark says."""
        read, found = _READ[mark], dict[tuple[str, ...], None]()
        for heard in self.heard:
            for first in range(len(heard.spans)):
                for count in range(1, min(7, len(heard.spans) - first) + 1):
                    if read(heard.cut(first, count)) is not None:
                        found[tuple(heard.words[first : first + count])] = None
        return list(found)


def default_of(schema: Mapping[str, Any]) -> Any:
    """A schema's default as a value of its type, also where it is written as text; None where it is none."""
    default = schema.get("default")
    if default is not None and not fits(default, schema):
        default = cast(str(default), schema)
    return default if default is not None and fits(default, schema) else None


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that was said as ``text``: a choice as it stands, a string as it is, a number, all else from JSON."""
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


def flattened(items: Iterable[Sequence[Said]], between: int) -> list[Said]:
    """Items with a mark between them."""
    made: list[Said] = []
    for i, item in enumerate(items):
        made += [between, *item] if i else item
    return made
