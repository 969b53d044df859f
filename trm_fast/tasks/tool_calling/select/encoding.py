"""Encodes a request and its tools as positions: words, tools, their descriptions and arguments."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from trm_fast.tasks.base import Array
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, stem, stems
from trm_fast.tasks.tool_calling.text.relevance import MEASURES, Relevance
from trm_fast.tasks.tool_calling.text.tokenizer import BEGIN
from trm_fast.tasks.tool_calling.text.values import MONTHS, NUMBER_WORDS, json_type

Encode = Callable[[str], Sequence[int]]
"""Turns text into token ids."""

START, WORD, TOOL, DESCRIPTION, ARGUMENT = range(1, 6)
NUM_ROLES = 6
"""The roles of a position; 0 is padding."""
TOOL_FEATURES = len(MEASURES)
WORD_FEATURES = (
    "digit", "capital", "sign", "quoted", "number word", "weight", "in a tool", "in an argument's name",
    "capitals", "mixed", "date", "first of a clause",
)  # fmt: skip
FIELD_FEATURES = ("required", "default", "choices", "boolean", "number", "list", "name shared", "description shared")
NUM_FEATURES = TOOL_FEATURES + len(WORD_FEATURES) + len(FIELD_FEATURES)
NUM_STEMS = 12
"""How many stems a position has; words and arguments are compared by them. An argument has those of its name in the
first half, and the rarest of its description in the second; a word has one."""
MIN_STEM_WEIGHT = 1.5
"""The minimum weight of a stem that is compared: stems below it occur in too many tools."""


class EncodedRequest:
    """The arrays of a request, padded to the sizes of ``limits`` (L positions, T tools, P arguments, W words).

    Position 0 is the begin token. Then come the words, and each tool with its description and its arguments.
    ``length`` positions are used.

    ``bags`` int32 (L, bag): the tokens of a position; ``roles`` int32 (L,); ``features`` float32 (L, NUM_FEATURES);
    ``stems`` int32 (L, NUM_STEMS); ``tool_places`` int32 (T,) and ``field_places`` int32 (P,): the positions of tools
    and arguments, 0 for none; ``tool_ids`` int32 (T,): the numbers of tools in a classifier, 0 for unknown ones;
    ``field_tools`` int32 (P,): the number of each argument's tool; ``shares`` float32 (T, W): each tool's share of each
    word's clause.
    """

    def __init__(self, request: Request, limits: RequestLimits, lexicon: Lexicon, encode: Encode) -> None:
        L, T, P = limits.positions, limits.tools, limits.arguments
        self.request, self.lexicon, self.encode, self.length = request, lexicon, encode, 1
        self.bags, self.roles = np.zeros((L, limits.bag), dtype=np.int32), np.zeros(L, dtype=np.int32)
        self.features = np.zeros((L, NUM_FEATURES), dtype=np.float32)
        self.stems = np.zeros((L, NUM_STEMS), dtype=np.int32)
        self.tool_places, self.tool_ids = np.zeros(T, dtype=np.int32), np.zeros(T, dtype=np.int32)
        self.field_places, self.field_tools = np.zeros(P, dtype=np.int32), np.zeros(P, dtype=np.int32)
        self.shares = np.zeros((T, limits.words), dtype=np.float32)
        self.bags[0, 0], self.roles[0] = BEGIN, START
        relevance = Relevance.of(request.query, request.tools, lexicon)
        self._add_words(relevance)
        self._add_tools(relevance)

    def _add(self, role: int, text: str) -> int:
        index, kept = self.length, list(dict.fromkeys(self.encode(text)))[: self.bags.shape[1]]
        self.bags[index, : len(kept)], self.roles[index] = kept, role
        self.length += 1
        return index

    def _add_words(self, relevance: Relevance) -> None:
        request, lexicon = self.request, self.lexicon
        of_tools = {s for tool in request.tools for s in stems(f"{tool.name} {tool.description}")}
        of_arguments = {s for _, name in request.arguments for s in stems(name)}
        quoted = _quoted(request.query)
        previous = -1
        for i, (begin, end) in enumerate(request.words.spans):
            text = request.query[begin:end]
            index, word = self._add(WORD, text), stem(text.lower())
            clause = bisect(relevance.clauses, begin) - 1
            self.features[index, TOOL_FEATURES : TOOL_FEATURES + len(WORD_FEATURES)] = (
                text[0].isdigit(), text[0].isupper(), not text[0].isalnum(), quoted[begin],
                text.lower() in NUMBER_WORDS, lexicon.weight(word) / 5, word in of_tools, word in of_arguments,
                text.isupper() and len(text) > 1, not text.isalpha() and not text.isdigit() and text[0].isalnum(),
                text.lower()[:3] in MONTHS, clause != previous,
            )  # fmt: skip
            ids = _stem_ids([word], lexicon) if text[0].isalnum() else []
            self.stems[index, : len(ids)] = ids
            self.shares[: len(request.tools), i] = relevance.shares[:, clause]
            previous = clause

    def _add_tools(self, relevance: Relevance) -> None:
        request, lexicon = self.request, self.lexicon
        of_request = set(stems(request.query))
        half = NUM_STEMS // 2
        for t, tool in enumerate(request.tools):
            positions = [self._add(TOOL, " ".join(name_words(tool.name)))]
            self.tool_places[t] = positions[0]
            positions.append(self._add(DESCRIPTION, tool.description))
            for number, (owner, argument) in enumerate(request.arguments):
                if owner != t:
                    continue
                schema = request.schema(number)
                description = str(schema.get("description", ""))
                index = self._add(ARGUMENT, f"{' '.join(name_words(argument))} {description}")
                self.field_places[number], self.field_tools[number] = index, t
                kind = json_type(schema)
                self.features[index, -len(FIELD_FEATURES) :] = (
                    argument in tool.parameters["required"], "default" in schema, "enum" in schema, kind == "boolean",
                    kind in ("integer", "number"), kind == "array",
                    lexicon.overlap(of_request, argument), lexicon.overlap(of_request, description),
                )  # fmt: skip
                for first, words in ((0, stems(argument)), (half, stems(description))):
                    ids = _stem_ids(words, lexicon)[:half]
                    self.stems[index, first : first + len(ids)] = ids
                positions.append(index)
            self.features[positions, :TOOL_FEATURES] = relevance.measures[t]


def _stem_ids(words: Sequence[str], lexicon: Lexicon) -> list[int]:
    """Hash codes above 0 of the stems that are not too common, the rarest first."""
    rare = sorted({s for s in words if lexicon.weight(s) >= MIN_STEM_WEIGHT}, key=lambda s: (-lexicon.weight(s), s))
    return [(crc32(s.encode()) & 0x7FFFFFFF) or 1 for s in rare]


def name_words(name: str) -> list[str]:
    """The words of an identifier."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()) or [name]


def _quoted(text: str) -> Array:
    """Which characters of a text are between quotation marks, bool (characters + 1,)."""
    inside = np.zeros(len(text) + 1, dtype=np.bool_)
    for match in re.finditer(r"\"[^\"]+\"|“[^”]+”|(?<!\w)'[^']+'(?!\w)|`[^`]+`", text):
        inside[match.start() + 1 : match.end() - 1] = True
    return inside
