"""A request and its tools as places of a model that points: words, tools, their descriptions and arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_fast.tasks.base import IGNORE, Array, IntArray
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.lexical import MEASURES, Lexicon, stem, stems, words
from trm_fast.tasks.tool_calling.tokenizer import BEGIN
from trm_fast.tasks.tool_calling.values import NUMBER_WORDS, cast, kind_of, same

Encode = Callable[[str], Sequence[int]]
"""Text to token ids."""

START, WORD, TOOL, DESCRIPTION, ARGUMENT = range(1, 6)
NUM_ROLES = 6
"""What a place is; 0 is padding."""
ABSENT, SPAN, DEFAULT, TRUE, FALSE, OTHER = range(6)
"""How an argument is given, as the head has it: not at all, by words of the request, as its schema's default, as true
or false, or as something that can't be told."""
OUTSIDE, BEGINS, INSIDE = range(3)

TOOL_FEATURES = 2 * len(MEASURES)
WORD_FEATURES = ("digit", "capital", "sign", "quoted", "number word", "weight", "in a tool", "in an argument's name")
FIELD_FEATURES = ("required", "default", "choices", "boolean", "number", "list", "name shared", "description shared")
NUM_FEATURES = TOOL_FEATURES + len(WORD_FEATURES) + len(FIELD_FEATURES)


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
    """A request's arrays, of the sizes that the model has."""

    bags: IntArray
    roles: IntArray
    features: Array
    tool_places: IntArray
    field_places: IntArray
    length: int = 1

    @classmethod
    def of(cls, request: Request, sizes: Sizes, lexicon: Lexicon, encode: Encode) -> Places:
        made = cls(
            np.zeros((sizes.places, sizes.bag), dtype=np.int32), np.zeros(sizes.places, dtype=np.int32),
            np.zeros((sizes.places, NUM_FEATURES), dtype=np.float32),
            np.zeros(sizes.tools, dtype=np.int32), np.zeros(sizes.fields, dtype=np.int32),
        )  # fmt: skip
        made.bags[0, 0], made.roles[0] = BEGIN, START
        made._words(request, lexicon, encode)
        made._tools(request, lexicon, encode)
        return made

    def _add(self, role: int, ids: Sequence[int]) -> int:
        at, kept = self.length, list(dict.fromkeys(ids))[: self.bags.shape[1]]
        self.bags[at, : len(kept)], self.roles[at] = kept, role
        self.length += 1
        return at

    def _words(self, request: Request, lexicon: Lexicon, encode: Encode) -> None:
        theirs = {s for tool in request.tools for s in stems(f"{tool.name} {tool.description}")}
        names = {s for _, name in request.fields for s in stems(name)}
        quoted = _quoted(request.query)
        for begin, end in request.words:
            text = request.query[begin:end]
            at, known = self._add(WORD, encode(text)), stem(text.lower())
            self.features[at, TOOL_FEATURES : TOOL_FEATURES + len(WORD_FEATURES)] = (
                text[0].isdigit(), text[0].isupper(), not text[0].isalnum(), quoted[begin],
                text.lower() in NUMBER_WORDS, lexicon.weight(known) / 5, known in theirs, known in names,
            )  # fmt: skip

    def _tools(self, request: Request, lexicon: Lexicon, encode: Encode) -> None:
        asked = set(stems(request.query))
        measures = lexicon.measures(request.query, request.tools)
        number = 0
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
                self.field_places[number] = at
                kind = kind_of(schema)
                self.features[at, -len(FIELD_FEATURES) :] = (
                    argument in tool.parameters["required"], "default" in schema, "enum" in schema, kind == "boolean",
                    kind in ("integer", "number"), kind == "array",
                    lexicon.overlap(asked, argument), lexicon.overlap(asked, said),
                )  # fmt: skip
                places.append(at)
                number += 1
            self.features[places, :TOOL_FEATURES] = measures[t]


def labels_of(request: Request, calls: Sequence[Call], sizes: Sizes) -> IntArray:
    """(T + P + P W,): tools called, kinds and tags of the called tools' arguments; IGNORE elsewhere."""
    made = np.full(sizes.tools + sizes.fields + sizes.fields * sizes.words, IGNORE, dtype=np.int32)
    called = {call.name for call in calls}
    made[: len(request.tools)] = [tool.name in called for tool in request.tools]
    kinds = made[sizes.tools : sizes.tools + sizes.fields]
    tags = made[sizes.tools + sizes.fields :].reshape(sizes.fields, sizes.words)
    for place, (tool, name) in enumerate(request.fields):
        mine = [call.arguments for call in calls if call.name == request.tools[tool].name]
        if not mine:
            continue
        schema = request.schema(place)
        given = [arguments[name] for arguments in mine if name in arguments]
        if not given:
            kinds[place] = ABSENT
        elif isinstance(given[0], bool):
            kinds[place] = TRUE if given[0] else FALSE
        elif (spans := _spans(request, given, schema)) is not None:
            kinds[place] = SPAN
            tags[place, : len(request.words)] = OUTSIDE
            for first, last in spans:
                tags[place, first : last + 1] = INSIDE
                tags[place, first] = BEGINS
        else:
            kinds[place] = DEFAULT if "default" in schema and same(schema["default"], given[0]) else OTHER
    return made


def _spans(request: Request, given: Sequence[Any], schema: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Where the values stand, in order; None where one of them does not. Calls alike in a value share its words."""
    wanted: list[Any] = []
    for value in given:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(value, list) or not any(same(part, other) for other in wanted):
                wanted.append(part)
    inner = schema.get("items", {}) if kind_of(schema) == "array" else schema
    found: list[tuple[int, int]] = []
    for part in wanted:
        span = next((s for s in _occurrences(request, part, inner) if all(s[0] > f[1] for f in found[-1:])), None)
        if span is None:
            return None
        found.append(span)
    return found or None


def _occurrences(request: Request, value: Any, schema: dict[str, Any]) -> list[tuple[int, int]]:
    """Spans of words that stand for a value, the exact ones first."""
    if isinstance(value, str) and kind_of(schema) not in ("integer", "number"):
        begins = {begin: i for i, (begin, _) in enumerate(request.words)}
        ends = {end: i for i, (_, end) in enumerate(request.words)}
        pattern = re.compile(re.escape(value.strip()), re.IGNORECASE) if value.strip() else None
        matches = list(pattern.finditer(request.query)) if pattern else []
        spans = [(begins[m.start()], ends[m.end()]) for m in matches if m.start() in begins and m.end() in ends]
        return sorted(spans, key=lambda s: request.text(*s) != value)
    numeric = schema if kind_of(schema) in ("integer", "number") else {"type": "number"}
    spans = []
    for first in range(len(request.words)):
        if not _may_begin_number(request.text(first, first)):
            continue
        for last in range(min(first + 4, len(request.words)) - 1, first - 1, -1):
            made = cast(request.text(first, last), numeric)
            if made is not None and same(made, value):
                spans.append((first, last))
                break
    return spans


def _may_begin_number(word: str) -> bool:
    return word[0].isdigit() or word in "+-$€£¥" or word.lower() in NUMBER_WORDS


def calls_of(request: Request, answer: IntArray, sizes: Sizes, *, count: int | None = None) -> list[Call]:
    """The calls of an answer: the tools above one half, or the ``count`` best, each with its arguments."""
    scores = answer[: len(request.tools)]
    order = np.argsort(-scores, kind="stable")
    chosen = [int(i) for i in order if scores[i] > 0] if count is None else [int(i) for i in order[:count]]
    return [call for t in chosen for call in _tool_calls(request, answer, sizes, t)]


def _tool_calls(request: Request, answer: IntArray, sizes: Sizes, tool: int) -> list[Call]:
    """One call, or as many as an argument that is no list has values: the others are shared, or go along in order."""
    kinds = answer[sizes.tools : sizes.tools + sizes.fields]
    tags = answer[sizes.tools + sizes.fields :].reshape(sizes.fields, sizes.words)
    shared: dict[str, Any] = {}
    several: dict[str, list[Any]] = {}
    for place, (owner, name) in enumerate(request.fields):
        if owner != tool:
            continue
        schema = request.schema(place)
        required = name in request.tools[tool].parameters["required"]
        found = _given(request, kinds[place], tags[place], schema)
        if not found and required:
            found = [schema["default"]] if "default" in schema else _values(request, tags[place], schema)
        if found and kind_of(schema) != "array" and len(found) > 1:
            several[name] = found
        elif found:
            shared[name] = found[0]
    many = max(map(len, several.values()), default=1)
    name = request.tools[tool].name
    return [Call(name, shared | {n: v[min(i, len(v) - 1)] for n, v in several.items()}) for i in range(many)]


def _given(request: Request, kind: int, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    if kind == SPAN:
        return _values(request, tags, schema)
    if kind == DEFAULT and "default" in schema:
        return [schema["default"]]
    return [kind == TRUE] if kind in (TRUE, FALSE) and kind_of(schema) == "boolean" else []


def _values(request: Request, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    """Values of the tagged words that fit the schema; of a list one value, the list."""
    inner = schema.get("items", {}) if kind_of(schema) == "array" else schema
    if kind_of(schema) == "array" and not inner:
        inner = {"type": "number"} if _all_numbers(request, tags) else {}
    made = [cast(request.text(first, last), inner) for first, last in spans_of(tags[: len(request.words)])]
    found = [value for value in made if value is not None]
    return [found] if found and kind_of(schema) == "array" else found


def _all_numbers(request: Request, tags: IntArray) -> bool:
    texts = [request.text(*span) for span in spans_of(tags[: len(request.words)])]
    return bool(texts) and all(cast(text, {"type": "number"}) is not None for text in texts)


def spans_of(tags: IntArray) -> list[tuple[int, int]]:
    """First and last word of each value; one that begins nowhere begins with its first word."""
    spans: list[tuple[int, int]] = []
    before = OUTSIDE
    for i, tag in enumerate(tags.tolist()):
        if tag == BEGINS or (tag == INSIDE and before == OUTSIDE):
            spans.append((i, i))
        elif tag == INSIDE:
            spans[-1] = (spans[-1][0], i)
        before = tag
    return spans


def wanted_calls(conversation: Conversation) -> list[Call]:
    """The calls behind the last user turn, or the one that is known to come next."""
    turns = conversation.turns
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    calls = [turn.call for turn in turns[last + 1 :] if turn.call is not None]
    return calls or ([conversation.call] if conversation.call else [])


def stems_apart(name: str) -> list[str]:
    """The words of an identifier."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()) or [name]


def _quoted(text: str) -> Array:
    """Which characters stand between quotation marks."""
    inside = np.zeros(len(text) + 1, dtype=np.bool_)
    for match in re.finditer(r"\"[^\"]+\"|“[^”]+”|(?<!\w)'[^']+'(?!\w)|`[^`]+`", text):
        inside[match.start() + 1 : match.end() - 1] = True
    return inside
