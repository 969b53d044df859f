"""A request and its tools as places of a model that points: words, tools, their descriptions and arguments."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from trm_fast.tasks.base import Array, IntArray
from trm_fast.tasks.tool_calling.conversation import Tool
from trm_fast.tasks.tool_calling.lexical import Lexicon, stem, stems, words
from trm_fast.tasks.tool_calling.relevance import MEASURES, Relevance
from trm_fast.tasks.tool_calling.tokenizer import BEGIN
from trm_fast.tasks.tool_calling.values import MONTHS, NUMBER_WORDS, kind_of

Encode = Callable[[str], Sequence[int]]
"""Text to token ids."""

START, WORD, TOOL, DESCRIPTION, ARGUMENT = range(1, 6)
NUM_ROLES = 6
"""What a place is; 0 is padding."""
TOOL_FEATURES = len(MEASURES)
WORD_FEATURES = (
    "digit", "capital", "sign", "quoted", "number word", "weight", "in a tool", "in an argument's name",
    "capitals", "mixed", "date", "first of a clause",
)  # fmt: skip
FIELD_FEATURES = ("required", "default", "choices", "boolean", "number", "list", "name shared", "description shared")
NUM_FEATURES = TOOL_FEATURES + len(WORD_FEATURES) + len(FIELD_FEATURES)
NUM_STEMS = 12
"""Stems of a place by which words and arguments meet: of an argument the first half its name's, then the rarest of its
description; a word has one."""
COMMON = 1.5
"""Stems of less weight stand in too many tools to say anything."""


@dataclass(frozen=True)
class Sizes:
    """Most places, words, tools and arguments of a row, and tokens of a place."""

    places: int
    words: int
    tools: int
    fields: int
    bag: int


@dataclass(frozen=True)
class Request:
    """A request with its tools in the order of the places, which is that of their names: the order in which they are
    offered says nothing. ``fields``: (tool's number, argument's name). ``cut``: words, tools or arguments left out."""

    query: str
    words: list[tuple[int, int]]
    tools: list[Tool]
    fields: list[tuple[int, str]]
    cut: bool

    @classmethod
    def of(cls, query: str, tools: Sequence[Tool], sizes: Sizes, lexicon: Lexicon) -> Request:
        """Of too many tools those stay that share most words with the request, of a long request its last words."""
        found, kept = words(query), list(tools)
        if len(kept) > sizes.tools:
            order = np.argsort(-np.array(lexicon.scores(query, kept)), kind="stable")
            kept = [kept[i] for i in order[: sizes.tools]]
        kept = sorted(kept, key=lambda tool: tool.name)
        named = [(t, name) for t, tool in enumerate(kept) for name in tool.parameters["properties"]]
        said = found[-sizes.words :]
        room = min(sizes.fields, sizes.places - 1 - len(said) - 2 * len(kept))
        cut = len(said) < len(found) or len(kept) < len(tools) or len(named) > room
        return cls(query, said, kept, named[:room], cut)

    def schema(self, place: int) -> dict[str, Any]:
        tool, name = self.fields[place]
        schema: dict[str, Any] = self.tools[tool].parameters["properties"][name]
        return schema

    def text(self, first: int, last: int) -> str:
        return self.query[self.words[first][0] : self.words[last][1]]


@dataclass
class Places:
    """A request's arrays, of the sizes that the model has. ``shares``: how much the clause of a word is a tool's."""

    bags: IntArray
    roles: IntArray
    features: Array
    stems: IntArray
    tool_places: IntArray
    tool_ids: IntArray
    field_places: IntArray
    field_tools: IntArray
    shares: Array
    length: int = 1

    @classmethod
    def of(cls, request: Request, sizes: Sizes, lexicon: Lexicon, encode: Encode) -> Places:
        def none(*shape: int) -> IntArray:
            return np.zeros(shape, dtype=np.int32)

        made = cls(
            bags=none(sizes.places, sizes.bag), roles=none(sizes.places), stems=none(sizes.places, NUM_STEMS),
            features=np.zeros((sizes.places, NUM_FEATURES), dtype=np.float32),
            tool_places=none(sizes.tools), tool_ids=none(sizes.tools),
            field_places=none(sizes.fields), field_tools=none(sizes.fields),
            shares=np.zeros((sizes.tools, sizes.words), dtype=np.float32),
        )  # fmt: skip
        made.bags[0, 0], made.roles[0] = BEGIN, START
        relevance = Relevance.of(request.query, request.tools, lexicon)
        made._words(request, relevance, lexicon, encode)
        made._tools(request, relevance, lexicon, encode)
        return made

    def _add(self, role: int, ids: Sequence[int]) -> int:
        at, kept = self.length, list(dict.fromkeys(ids))[: self.bags.shape[1]]
        self.bags[at, : len(kept)], self.roles[at] = kept, role
        self.length += 1
        return at

    def _words(self, request: Request, relevance: Relevance, lexicon: Lexicon, encode: Encode) -> None:
        theirs = {s for tool in request.tools for s in stems(f"{tool.name} {tool.description}")}
        names = {s for _, name in request.fields for s in stems(name)}
        quoted = _quoted(request.query)
        before = -1
        for i, (begin, end) in enumerate(request.words):
            text = request.query[begin:end]
            at, known = self._add(WORD, encode(text)), stem(text.lower())
            clause = bisect(relevance.clauses, begin) - 1
            self.features[at, TOOL_FEATURES : TOOL_FEATURES + len(WORD_FEATURES)] = (
                text[0].isdigit(), text[0].isupper(), not text[0].isalnum(), quoted[begin],
                text.lower() in NUMBER_WORDS, lexicon.weight(known) / 5, known in theirs, known in names,
                text.isupper() and len(text) > 1, not text.isalpha() and not text.isdigit() and text[0].isalnum(),
                text.lower()[:3] in MONTHS, clause != before,
            )  # fmt: skip
            ids = _stem_ids([known], lexicon) if text[0].isalnum() else []
            self.stems[at, : len(ids)] = ids
            self.shares[: len(request.tools), i] = relevance.shares[:, clause]
            before = clause

    def _tools(self, request: Request, relevance: Relevance, lexicon: Lexicon, encode: Encode) -> None:
        asked = set(stems(request.query))
        number, half = 0, NUM_STEMS // 2
        for t, tool in enumerate(request.tools):
            name = " ".join(stems_apart(tool.name))
            places = [self._add(TOOL, encode(name))]
            self.tool_places[t] = places[0]
            places.append(self._add(DESCRIPTION, encode(tool.description)))
            while number < len(request.fields) and request.fields[number][0] == t:
                argument, schema = request.fields[number][1], request.schema(number)
                said = str(schema.get("description", ""))
                text = f"{' '.join(stems_apart(argument))} {said}"
                at = self._add(ARGUMENT, encode(text))
                self.field_places[number], self.field_tools[number] = at, t
                kind = kind_of(schema)
                self.features[at, -len(FIELD_FEATURES) :] = (
                    argument in tool.parameters["required"], "default" in schema, "enum" in schema, kind == "boolean",
                    kind in ("integer", "number"), kind == "array",
                    lexicon.overlap(asked, argument), lexicon.overlap(asked, said),
                )  # fmt: skip
                for first, found in ((0, stems(argument)), (half, stems(said))):
                    ids = _stem_ids(found, lexicon)[:half]
                    self.stems[at, first : first + len(ids)] = ids
                places.append(at)
                number += 1
            self.features[places, :TOOL_FEATURES] = relevance.measures[t]


def _stem_ids(found: Sequence[str], lexicon: Lexicon) -> list[int]:
    """Numbers above 0 of the stems that are not too common, the rarest first."""
    rare = sorted({s for s in found if lexicon.weight(s) >= COMMON}, key=lambda s: (-lexicon.weight(s), s))
    return [(crc32(s.encode()) & 0x7FFFFFFF) or 1 for s in rare]


def stems_apart(name: str) -> list[str]:
    """The words of an identifier."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()) or [name]


def _quoted(text: str) -> Array:
    """Which characters stand between quotation marks."""
    inside = np.zeros(len(text) + 1, dtype=np.bool_)
    for match in re.finditer(r"\"[^\"]+\"|“[^”]+”|(?<!\w)'[^']+'(?!\w)|`[^`]+`", text):
        inside[match.start() + 1 : match.end() - 1] = True
    return inside
