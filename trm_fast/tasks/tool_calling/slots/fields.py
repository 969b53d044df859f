"""What a tool-slots model can answer: tools, arguments, slots and their known values; conversations as its labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trm_fast.labels import IGNORE, SlotKind
from trm_fast.tasks.base import IntArray
from trm_fast.tasks.tool_calling.data.conversation import DONTCARE, Call, Conversation, Tool
from trm_fast.tasks.tool_calling.slots.encoding import Row, find_spans, plain_number
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer

KNOWN = len(SlotKind)
"""The kind of a field's first known value."""

SPEAKING = ("user", "assistant")
ACTING = ("tool_call", "tool_response")
MOST_VALUES = 40


class SlotLabels(NamedTuple):
    """Labels or answers (..., 2 + 3 F), as the head has them, in parts: views of the same numbers."""

    decision: IntArray  # (...,): 1 for a call
    tool: IntArray  # (...,)
    kinds: IntArray  # (..., F): a SlotKind, or KNOWN and more
    starts: IntArray  # (..., F)
    ends: IntArray  # (..., F), inclusive

    @classmethod
    def of(cls, flat: IntArray) -> SlotLabels:
        kinds, starts, ends = np.split(flat[..., 2:], 3, axis=-1)
        return cls(flat[..., 0], flat[..., 1], kinds, starts, ends)


@dataclass(frozen=True)
class Fields:
    """``arguments`` and ``slots`` together are the fields, in this order. ``values``: for each field those known beside
    what stands in the text: a parameter's enum, and values met in training that stood nowhere. ``frequent``: what the
    training rows had most often, for baselines: the decision, the tool, and each slot's value."""

    tools: tuple[Tool, ...]
    arguments: tuple[str, ...]
    slots: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    frequent: Mapping[str, Any]

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> Fields:
        """From training rows."""
        tools = {tool.name: tool for c in conversations for tool in c.tools}
        arguments = list(dict.fromkeys(n for tool in tools.values() for n in tool.parameters["properties"]))
        slots = list(dict.fromkeys(name for c in conversations for name in c.slots or {}))
        met: dict[str, Counter[str]] = defaultdict(Counter)
        filled: dict[str, Counter[str]] = defaultdict(Counter)
        for c in conversations:
            dialogue = "\n".join(turn.text for turn in c.turns if turn.role in SPEAKING)
            for kind, values_by_name in (("argument", c.call.arguments if c.call else {}), ("slot", c.slots or {})):
                for name, value in values_by_name.items():
                    if kind == "slot":
                        filled[name][str(value)] += 1
                    if value and str(value) not in dialogue:
                        met[f"{kind} {name}"][str(value)] += 1
        values = []
        for kind, names in (("argument", arguments), ("slot", slots)):
            for name in names:
                closed = [v for tool in tools.values() for v in _enum(tool, name)] if kind == "argument" else []
                often = [v for v, n in met[f"{kind} {name}"].most_common(MOST_VALUES) if n > 1 and v != DONTCARE]
                values.append(tuple(dict.fromkeys(closed + often)))
        decisions = Counter(c.decision for c in conversations)
        called = Counter(c.call.name for c in conversations if c.call)
        frequent = {
            "decision": decisions.most_common(1)[0][0],
            "tool": called.most_common(1)[0][0] if called else "",
            "slots": {name: filled[name].most_common(1)[0][0] for name in slots},
            "values": {n: next((v for v, _ in filled[n].most_common() if v), "") for n in slots},
        }
        return cls(tuple(tools.values()), tuple(arguments), tuple(slots), tuple(values), frequent)

    @property
    def count(self) -> int:
        return len(self.arguments) + len(self.slots)

    @property
    def most_values(self) -> int:
        return max((len(v) for v in self.values), default=0)

    def tool_number(self, name: str) -> int:
        """The tool's number; -1 for one that was not met in training."""
        return next((i for i, tool in enumerate(self.tools) if tool.name == name), -1)

    def offered(self, conversation: Conversation) -> list[bool]:
        names = {tool.name for tool in conversation.tools}
        return [tool.name in names for tool in self.tools]

    def labels(self, conversation: Conversation, row: Row, tokenizer: Tokenizer) -> IntArray:
        """(2 + 3 F,): decision, tool, kinds, starts, ends; IGNORE where a row says nothing."""
        flat = np.full(2 + 3 * self.count, IGNORE, dtype=np.int32)
        labels = SlotLabels.of(flat)
        labels.decision[...] = conversation.decision == "tool_call"
        call = conversation.call

        def put(field: int, value: str, *, argument: bool) -> None:
            labels.kinds[field], span = self._kind(field, value, row, tokenizer, argument)
            if span is not None:
                labels.starts[field], labels.ends[field] = span

        if call is not None and (number := self.tool_number(call.name)) >= 0:
            labels.tool[...] = number
            for i, name in enumerate(self.arguments):
                if name in self.tools[number].parameters["properties"]:
                    put(i, str(call.arguments.get(name, "")), argument=True)
        for i, name in enumerate(self.slots):
            if conversation.slots is not None and name in conversation.slots:
                put(len(self.arguments) + i, conversation.slots[name], argument=False)
        return flat

    def _kind(
        self, field: int, value: str, row: Row, tokenizer: Tokenizer, argument: bool
    ) -> tuple[int, tuple[int, int] | None]:
        """What stands in the dialogue comes first. A slot may be in any case; an argument must come out as it is called
        with. A known value comes before what an argument has in common with a mere result."""
        if value in ("", DONTCARE):
            return (SlotKind.DONTCARE if value else SlotKind.NONE), None
        kind = self.values[field].index(value) + KNOWN if value in self.values[field] else SlotKind.OTHER
        for roles in (SPEAKING, ACTING):
            if kind != SlotKind.OTHER and argument and roles == ACTING:
                break
            for span in find_spans(row, value, roles):
                text = span_text(row.ids, span, tokenizer)
                if (self._written(field, text) == value) if argument else (text.casefold() == value.casefold()):
                    return SlotKind.SPAN, span
        return kind, None

    def value(self, field: int, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> str | None:
        """The value that an answer (2 + 3 F,) gives to a field: "" for none, None for one out of reach."""
        labels = SlotLabels.of(answer)
        kind = int(labels.kinds[field])
        if kind == SlotKind.SPAN:
            text = span_text(ids.tolist(), (int(labels.starts[field]), int(labels.ends[field])), tokenizer)
            return self._written(field, text) if field < len(self.arguments) else text
        known = self.values[field]
        if kind >= KNOWN:
            return known[kind - KNOWN] if kind - KNOWN < len(known) else None
        if kind == SlotKind.OTHER:
            return None
        return DONTCARE if kind == SlotKind.DONTCARE else ""

    def _written(self, field: int, text: str) -> str:
        """A text of the dialogue as a call writes it: plain numbers, known values in their own case."""
        plain = plain_number(text)
        return next((known for known in self.values[field] if known.casefold() == plain.casefold()), plain)

    def call(self, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> Call | None:
        """The call of an answer, with the tool's own arguments; None for a direct answer."""
        labels = SlotLabels.of(answer)
        if labels.decision != 1 or not 0 <= labels.tool < len(self.tools):
            return None
        tool, arguments = self.tools[int(labels.tool)], {}
        for i, name in enumerate(self.arguments):
            if name in tool.parameters["properties"] and (value := self.value(i, answer, ids, tokenizer)) != "":
                arguments[name] = value
        return Call(tool.name, arguments)

    def slot_values(self, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> dict[str, str | None]:
        """Each slot's value."""
        first = len(self.arguments)
        return {name: self.value(first + i, answer, ids, tokenizer) for i, name in enumerate(self.slots)}

    def to_json(self) -> dict[str, Any]:
        return {
            "tools": [tool.to_json() for tool in self.tools],
            "arguments": self.arguments, "slots": self.slots, "values": self.values, "frequent": self.frequent,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fields:
        tools = tuple(Tool.of(tool) for tool in value["tools"])
        values = tuple(tuple(v) for v in value["values"])
        return cls(tools, tuple(value["arguments"]), tuple(value["slots"]), values, value["frequent"])


def span_text(ids: Sequence[int], span: tuple[int, int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids[span[0] : span[1] + 1]).strip()


def _enum(tool: Tool, parameter: str) -> list[str]:
    schema = tool.parameters["properties"].get(parameter, {})
    return [str(v) for v in schema.get("enum") or []]
