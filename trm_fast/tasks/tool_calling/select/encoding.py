"""A request and its tools as positions of a model that points: words, tools, their descriptions and arguments."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from trm_fast.tasks.base import Array, IntArray
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, stem, stems
from trm_fast.tasks.tool_calling.text.relevance import MEASURES, Relevance
from trm_fast.tasks.tool_calling.text.tokenizer import BEGIN
from trm_fast.tasks.tool_calling.text.values import MONTHS, NUMBER_WORDS, kind_of

Encode = Callable[[str], Sequence[int]]
"""Text to token ids."""

START, WORD, TOOL, DESCRIPTION, ARGUMENT = range(1, 6)
NUM_ROLES = 6
"""What a position is; 0 is padding."""
TOOL_FEATURES = len(MEASURES)
WORD_FEATURES = (
    "digit", "capital", "sign", "quoted", "number word", "weight", "in a tool", "in an argument's name",
    "capitals", "mixed", "date", "first of a clause",
)  # fmt: skip
FIELD_FEATURES = ("required", "default", "choices", "boolean", "number", "list", "name shared", "description shared")
NUM_FEATURES = TOOL_FEATURES + len(WORD_FEATURES) + len(FIELD_FEATURES)
NUM_STEMS = 12
"""Stems of a position by which words and arguments meet: of an argument the first half its name's, then the rarest of
its description; a word has one."""
COMMON = 1.5
"""Stems of less weight stand in too many tools to say anything."""


@dataclass
class EncodedRequest:
    """A request's arrays, of the sizes that the model has: position 0 is the beginning, the words follow, then each
    tool with its description and arguments. ``shares``: how much the clause of a word is a tool's."""

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
    def of(cls, request: Request, limits: RequestLimits, lexicon: Lexicon, encode: Encode) -> EncodedRequest:
        def zeros(*shape: int) -> IntArray:
            return np.zeros(shape, dtype=np.int32)

        row = cls(
            bags=zeros(limits.positions, limits.bag), roles=zeros(limits.positions),
            stems=zeros(limits.positions, NUM_STEMS),
            features=np.zeros((limits.positions, NUM_FEATURES), dtype=np.float32),
            tool_places=zeros(limits.tools), tool_ids=zeros(limits.tools),
            field_places=zeros(limits.arguments), field_tools=zeros(limits.arguments),
            shares=np.zeros((limits.tools, limits.words), dtype=np.float32),
        )  # fmt: skip
        row.bags[0, 0], row.roles[0] = BEGIN, START
        relevance = Relevance.of(request.query, request.tools, lexicon)
        row._add_words(request, relevance, lexicon, encode)
        row._add_tools(request, relevance, lexicon, encode)
        return row

    def _add(self, role: int, ids: Sequence[int]) -> int:
        at, kept = self.length, list(dict.fromkeys(ids))[: self.bags.shape[1]]
        self.bags[at, : len(kept)], self.roles[at] = kept, role
        self.length += 1
        return at

    def _add_words(self, request: Request, relevance: Relevance, lexicon: Lexicon, encode: Encode) -> None:
        of_tools = {s for tool in request.tools for s in stems(f"{tool.name} {tool.description}")}
        of_arguments = {s for _, name in request.arguments for s in stems(name)}
        quoted = _quoted(request.query)
        before = -1
        for i, (begin, end) in enumerate(request.words.spans):
            text = request.query[begin:end]
            at, word = self._add(WORD, encode(text)), stem(text.lower())
            clause = bisect(relevance.clauses, begin) - 1
            self.features[at, TOOL_FEATURES : TOOL_FEATURES + len(WORD_FEATURES)] = (
                text[0].isdigit(), text[0].isupper(), not text[0].isalnum(), quoted[begin],
                text.lower() in NUMBER_WORDS, lexicon.weight(word) / 5, word in of_tools, word in of_arguments,
                text.isupper() and len(text) > 1, not text.isalpha() and not text.isdigit() and text[0].isalnum(),
                text.lower()[:3] in MONTHS, clause != before,
            )  # fmt: skip
            ids = _stem_ids([word], lexicon) if text[0].isalnum() else []
            self.stems[at, : len(ids)] = ids
            self.shares[: len(request.tools), i] = relevance.shares[:, clause]
            before = clause

    def _add_tools(self, request: Request, relevance: Relevance, lexicon: Lexicon, encode: Encode) -> None:
        of_request = set(stems(request.query))
        number, half = 0, NUM_STEMS // 2
        for t, tool in enumerate(request.tools):
            name = " ".join(name_words(tool.name))
            positions = [self._add(TOOL, encode(name))]
            self.tool_places[t] = positions[0]
            positions.append(self._add(DESCRIPTION, encode(tool.description)))
            while number < len(request.arguments) and request.arguments[number][0] == t:
                argument, schema = request.arguments[number][1], request.schema(number)
                description = str(schema.get("description", ""))
                text = f"{' '.join(name_words(argument))} {description}"
                at = self._add(ARGUMENT, encode(text))
                self.field_places[number], self.field_tools[number] = at, t
                kind = kind_of(schema)
                self.features[at, -len(FIELD_FEATURES) :] = (
                    argument in tool.parameters["required"], "default" in schema, "enum" in schema, kind == "boolean",
                    kind in ("integer", "number"), kind == "array",
                    lexicon.overlap(of_request, argument), lexicon.overlap(of_request, description),
                )  # fmt: skip
                for first, words in ((0, stems(argument)), (half, stems(description))):
                    ids = _stem_ids(words, lexicon)[:half]
                    self.stems[at, first : first + len(ids)] = ids
                positions.append(at)
                number += 1
            self.features[positions, :TOOL_FEATURES] = relevance.measures[t]


def _stem_ids(words: Sequence[str], lexicon: Lexicon) -> list[int]:
    """Numbers above 0 of the stems that are not too common, the rarest first."""
    rare = sorted({s for s in words if lexicon.weight(s) >= COMMON}, key=lambda s: (-lexicon.weight(s), s))
    return [(crc32(s.encode()) & 0x7FFFFFFF) or 1 for s in rare]


def name_words(name: str) -> list[str]:
    """The words of an identifier."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()) or [name]


def _quoted(text: str) -> Array:
    """Which characters stand between quotation marks."""
    inside = np.zeros(len(text) + 1, dtype=np.bool_)
    for match in re.finditer(r"\"[^\"]+\"|“[^”]+”|(?<!\w)'[^']+'(?!\w)|`[^`]+`", text):
        inside[match.start() + 1 : match.end() - 1] = True
    return inside
