"""Turns calls into labels for a request's tools, arguments and words, and a model's answer into calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trm_fast.labels import IGNORE, ArgumentKind, Tag
from trm_fast.tasks.base import IntArray
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.finding import READINGS, Span, TurnWords, literal_span, occurrences, reading_span
from trm_fast.tasks.tool_calling.text.values import cast, json_type, literal_list, same


class RowLabels(NamedTuple):
    """The labels of one example, or an answer to it, as views of the head's flat array (T + P + P W,)."""

    tools: IntArray  # (T,): 1 for a called tool, else 0; in an answer a logit in thousandths
    kinds: IntArray  # (P,): an ArgumentKind each
    tags: IntArray  # (P, W): a Tag each

    @classmethod
    def of(cls, flat: IntArray, limits: RequestLimits) -> RowLabels:
        """Splits a flat array into its parts."""
        tools, kinds, tags = np.split(flat, (limits.tools, limits.tools + limits.arguments))
        return cls(tools, kinds, tags.reshape(limits.arguments, limits.words))


def encode_labels(request: Request, calls: Sequence[Call], limits: RequestLimits) -> IntArray:
    """The labels of a request, int32 (T + P + P W,): which tools are called, and the kinds and tags of their arguments;
    ``IGNORE`` elsewhere."""
    flat = np.full(limits.tools + limits.arguments + limits.arguments * limits.words, IGNORE, dtype=np.int32)
    labels = RowLabels.of(flat, limits)
    called = {call.name for call in calls}
    labels.tools[: len(request.tools)] = [tool.name in called for tool in request.tools]
    for i, (tool, name) in enumerate(request.arguments):
        arguments = [call.arguments for call in calls if call.name == request.tools[tool].name]
        if not arguments:
            continue
        values = [by_name[name] for by_name in arguments if name in by_name]
        labels.kinds[i], spans = _kind_and_spans(request.words, values, request.schema(i))
        if spans:
            labels.tags[i, : len(request.words)] = Tag.OUTSIDE
            for first, last in spans:
                labels.tags[i, first : last + 1] = Tag.INSIDE
                labels.tags[i, first] = Tag.BEGINS
    return flat


def _kind_and_spans(words: TurnWords, values: Sequence[Any], schema: dict[str, Any]) -> tuple[int, list[Span]]:
    """The kind of an argument, and the spans of its values; ``values`` has one value for each call with the
    argument."""
    if not values:
        return ArgumentKind.ABSENT, []
    if isinstance(values[0], bool):
        return (ArgumentKind.TRUE if values[0] else ArgumentKind.FALSE), []
    literals = [literal_span(words, value) for value in values if isinstance(value, list)]
    if literals and len(literals) == len(values) and None not in literals:
        return _single_or_several(sorted({span for span in literals if span is not None}))
    if (spans := _spans(words, values, schema)) is not None:
        return _single_or_several(spans)
    if json_type(schema) == "string" and isinstance(values[0], str) and all(same(value, values[0]) for value in values):
        for kind, read in READINGS.items():
            if (span := reading_span(words, values[0], read)) is not None:
                return kind, [span]
    by_default = "default" in schema and same(schema["default"], values[0])
    return (ArgumentKind.DEFAULT if by_default else ArgumentKind.OTHER), []


def _single_or_several(spans: list[Span]) -> tuple[int, list[Span]]:
    return (ArgumentKind.SPAN if len(spans) == 1 else ArgumentKind.SPANS), spans


def _spans(words: TurnWords, values: Sequence[Any], schema: dict[str, Any]) -> list[Span] | None:
    """The spans of values, in the order of the request; None if one has none. Equal values of several calls share a
    span."""
    parts: list[Any] = []
    for value in values:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(value, list) or not any(same(part, other) for other in parts):
                parts.append(part)
    inner = schema.get("items", {}) if json_type(schema) == "array" else schema
    spans: list[Span] = []
    for part in parts:
        end = spans[-1][1] if spans else -1
        span = next((s for s in occurrences(words, part, inner) if s[0] > end), None)
        if span is None:
            return None
        spans.append(span)
    return spans or None


def decode_calls(request: Request, answer: IntArray, limits: RequestLimits, *, count: int | None = None) -> list[Call]:
    """The calls of an answer.

    Args:
        request: the request.
        answer: the head's answer, int (T + P + P W,).
        limits: the sizes of the example.
        count: call the ``count`` best tools; by default all tools with a positive logit.
    """
    labels = RowLabels.of(answer, limits)
    scores = labels.tools[: len(request.tools)]
    order = np.argsort(-scores, kind="stable")
    chosen = [int(i) for i in order if scores[i] > 0] if count is None else [int(i) for i in order[:count]]
    return [call for tool in chosen for call in _tool_calls(request, labels, tool)]


def _tool_calls(request: Request, labels: RowLabels, number: int) -> list[Call]:
    """The calls of one tool: one, or one for each value of the argument with the most values. Arguments with one value
    are the same in all calls, others with fewer values repeat their last one."""
    tool = request.tools[number]
    shared: dict[str, Any] = {}
    several: dict[str, list[Any]] = {}
    for i, (owner, name) in enumerate(request.arguments):
        if owner != number:
            continue
        schema, tags = request.schema(i), labels.tags[i, : len(request.words)]
        values = _values(request.words, labels.kinds[i], tags, schema)
        if not values and name in tool.parameters["required"]:
            values = [schema["default"]] if "default" in schema else _tagged(request.words, tags, schema)
        if len(values) > 1:
            several[name] = values
        elif values:
            shared[name] = values[0]
    count = max(map(len, several.values()), default=1)
    return [Call(tool.name, shared | {n: v[min(i, len(v) - 1)] for n, v in several.items()}) for i in range(count)]


def _values(words: TurnWords, kind: int, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    """The values of an argument of some kind."""
    if kind in (ArgumentKind.SPAN, ArgumentKind.SPANS):
        return _tagged(words, tags, schema)
    if kind in READINGS:
        return [value for span in decode_spans(tags) if (value := READINGS[kind](words.span_text(*span))) is not None]
    if kind == ArgumentKind.DEFAULT and "default" in schema:
        return [schema["default"]]
    if kind in (ArgumentKind.TRUE, ArgumentKind.FALSE) and json_type(schema) == "boolean":
        return [bool(kind == ArgumentKind.TRUE)]
    return []


def _tagged(words: TurnWords, tags: IntArray, schema: dict[str, Any]) -> list[Any]:
    """The values of the tagged words that fit the schema. For a schema of lists this is one value, a list."""
    texts = [words.span_text(*span) for span in decode_spans(tags)]
    is_list = json_type(schema) == "array"
    inner = schema.get("items", {}) if is_list else schema
    if is_list:
        if literals := [literal for text in texts if (literal := literal_list(text)) is not None]:
            return literals
        if not inner:
            numbers = bool(texts) and all(cast(text, {"type": "number"}) is not None for text in texts)
            inner = {"type": "number"} if numbers else {}
    values = [value for text in texts if (value := cast(text, inner)) is not None]
    return [values] if values and is_list else values


def decode_spans(tags: IntArray) -> list[Span]:
    """The first and last word of each value. A value without a ``BEGINS`` tag begins at its first ``INSIDE`` tag."""
    spans: list[Span] = []
    previous = Tag.OUTSIDE
    for i, tag in enumerate(tags.tolist()):
        if tag == Tag.BEGINS or (tag == Tag.INSIDE and previous == Tag.OUTSIDE):
            spans.append((i, i))
        elif tag == Tag.INSIDE:
            spans[-1] = (spans[-1][0], i)
        previous = tag
    return spans
