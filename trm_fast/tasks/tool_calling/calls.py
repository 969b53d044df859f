"""Calls as labels of a request's places, and what a model says of the places as calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trm_fast.labels import IGNORE, ArgumentKind, Tag
from trm_fast.tasks.base import IntArray
from trm_fast.tasks.tool_calling.conversation import Call, Conversation
from trm_fast.tasks.tool_calling.selection import Request, Sizes
from trm_fast.tasks.tool_calling.values import (
    NUMBER_WORDS,
    bracketed,
    cast,
    date_of,
    kind_of,
    literal_list,
    same,
    singular,
)  # fmt: skip

READINGS: dict[int, Callable[[str], str | None]] = {ArgumentKind.DATE: date_of, ArgumentKind.SINGULAR: singular}
LONGEST_READING = 7


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
            kinds[place] = ArgumentKind.ABSENT
        elif isinstance(given[0], bool):
            kinds[place] = ArgumentKind.TRUE if given[0] else ArgumentKind.FALSE
        elif (found := _found(request, given, schema)) is not None:
            kinds[place], spans = found
            tags[place, : len(request.words)] = Tag.OUTSIDE
            for first, last in spans:
                tags[place, first : last + 1] = Tag.INSIDE
                tags[place, first] = Tag.BEGINS
        else:
            kinds[place] = (
                ArgumentKind.DEFAULT
                if "default" in schema and same(schema["default"], given[0])
                else ArgumentKind.OTHER
            )
    return made


def _found(request: Request, given: Sequence[Any], schema: dict[str, Any]) -> tuple[int, list[tuple[int, int]]] | None:
    """The kind of the values and where they stand; None where they don't."""
    literals = [_literal(request, value) for value in given if isinstance(value, list)]
    if literals and len(literals) == len(given) and None not in literals:
        return _as_runs(sorted({span for span in literals if span is not None}))
    if (spans := _spans(request, given, schema)) is not None:
        return _as_runs(spans)
    if kind_of(schema) == "string" and isinstance(given[0], str) and all(same(value, given[0]) for value in given):
        for kind, read in READINGS.items():
            if (span := _read_as(request, given[0], read)) is not None:
                return kind, [span]
    return None


def _as_runs(spans: list[tuple[int, int]]) -> tuple[int, list[tuple[int, int]]]:
    return (ArgumentKind.SPAN if len(spans) == 1 else ArgumentKind.SPANS), spans


def _literal(request: Request, value: list[Any]) -> tuple[int, int] | None:
    """Where a list stands as one would write it in a program."""
    for first, last in bracketed([request.text(i, i) for i in range(len(request.words))]):
        if (made := literal_list(request.text(first, last))) is not None and same(made, value):
            return first, last
    return None


def _read_as(request: Request, value: str, read: Callable[[str], str | None]) -> tuple[int, int] | None:
    """The longest words that can be read as a value."""
    for first in range(len(request.words)):
        for last in range(min(first + LONGEST_READING, len(request.words)) - 1, first - 1, -1):
            made = read(request.text(first, last))
            if made is not None and same(made, value):
                return first, last
    return None


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
        if len(found) > 1:
            several[name] = found
        elif found:
            shared[name] = found[0]
    many = max(map(len, several.values()), default=1)
    name = request.tools[tool].name
    return [Call(name, shared | {n: v[min(i, len(v) - 1)] for n, v in several.items()}) for i in range(many)]


def _given(request: Request, kind: int, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    if kind in (ArgumentKind.SPAN, ArgumentKind.SPANS):
        return _values(request, tags, schema)
    if kind in READINGS:
        spans = spans_of(tags[: len(request.words)])
        return [value for span in spans if (value := READINGS[kind](request.text(*span))) is not None]
    if kind == ArgumentKind.DEFAULT and "default" in schema:
        return [schema["default"]]
    if kind in (ArgumentKind.TRUE, ArgumentKind.FALSE) and kind_of(schema) == "boolean":
        return [kind == ArgumentKind.TRUE]
    return []


def _values(request: Request, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    """Values of the tagged words that fit the schema; of a list one value, the list."""
    inner = schema.get("items", {}) if kind_of(schema) == "array" else schema
    if kind_of(schema) == "array":
        literals = [literal_list(request.text(*span)) for span in spans_of(tags[: len(request.words)])]
        if found := [value for value in literals if value is not None]:
            return found
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
    before = Tag.OUTSIDE
    for i, tag in enumerate(tags.tolist()):
        if tag == Tag.BEGINS or (tag == Tag.INSIDE and before == Tag.OUTSIDE):
            spans.append((i, i))
        elif tag == Tag.INSIDE:
            spans[-1] = (spans[-1][0], i)
        before = tag
    return spans


def wanted_calls(conversation: Conversation) -> list[Call]:
    """The calls behind the last user turn, or the one that is known to come next."""
    turns = conversation.turns
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    calls = [turn.call for turn in turns[last + 1 :] if turn.call is not None]
    return calls or ([conversation.call] if conversation.call else [])
