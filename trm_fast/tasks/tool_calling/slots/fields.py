"""The tools, arguments, slots and known values of a ``tool-slots`` model, and the encoding of labels and answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from trm_fast.errors import UserError
from trm_fast.labels import IGNORE, SlotKind
from trm_fast.tasks.base import IntArray
from trm_fast.tasks.tool_calling.data.conversation import DONTCARE, Call, Conversation, Refused, Tool
from trm_fast.tasks.tool_calling.slots.encoding import Row, find_spans, plain_number
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer

FIRST_VALUE = len(SlotKind)
"""The kind of a field's first known value; the kinds after it are for the further known values."""

DIALOGUE_ROLES = ("user", "assistant")
"""The roles of the turns in words."""
CALL_ROLES = ("tool_call", "tool_response")
"""The roles of calls and their results."""
MAX_KNOWN_VALUES = 40
"""The maximum number of known values that a field takes from training conversations."""


class SlotLabels(NamedTuple):
    """The parts of labels or answers (..., 2 + 3 F) of the head, as views of one array."""

    decision: IntArray  # (...,): 1 for a call
    tool: IntArray  # (...,)
    kinds: IntArray  # (..., F): a SlotKind, or FIRST_VALUE and above
    starts: IntArray  # (..., F)
    ends: IntArray  # (..., F), inclusive

    @classmethod
    def of(cls, flat: IntArray) -> SlotLabels:
        """Splits a flat array into its parts."""
        kinds, starts, ends = np.split(flat[..., 2:], 3, axis=-1)
        return cls(flat[..., 0], flat[..., 1], kinds, starts, ends)


@dataclass(frozen=True)
class Fields:
    """The possible answers of a model. Its fields are ``arguments`` and ``slots``, in this order.

    ``values`` has the known values of each field: a parameter's enum, and values of the training conversations that no
    turn contained. ``frequent`` has the most frequent decision, tool and slot values of the training conversations, for
    baselines.
    """

    tools: tuple[Tool, ...]
    arguments: tuple[str, ...]
    slots: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    frequent: Mapping[str, Any]

    def check_same_order(self, trained: Fields) -> None:
        """Refuses data whose tools or fields would take the outputs of others in a model that is fine-tuned. Outputs of
        another number start fresh.

        Raises:
            UserError: there are as many, with other names or in another order.
        """
        for what in ("tools", "arguments", "slots"):
            names, trained_names = (
                [getattr(x, "name", x) for x in getattr(fields, what)] for fields in (self, trained)
            )
            if len(names) == len(trained_names) and names != trained_names:
                i = next(i for i, (a, b) in enumerate(zip(names, trained_names, strict=True)) if a != b)
                raise UserError(
                    f"the data's {what} differ from those of the model that is fine-tuned: number {i + 1} is "
                    f"{names[i]} and not {trained_names[i]}, so the model's outputs would change their meaning",
                    usage_error=True,
                )

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> Fields:
        """Collects the fields of training conversations."""
        tools = {tool.name: tool for c in conversations for tool in c.tools}
        arguments = list(dict.fromkeys(n for tool in tools.values() for n in tool.parameters["properties"]))
        slots = list(dict.fromkeys(name for c in conversations for name in c.slots or {}))
        unwritten: dict[str, Counter[str]] = defaultdict(Counter)
        filled: dict[str, Counter[str]] = defaultdict(Counter)
        for c in conversations:
            dialogue = "\n".join(turn.text for turn in c.turns if turn.role in DIALOGUE_ROLES)
            for kind, values_by_name in (("argument", c.call.arguments if c.call else {}), ("slot", c.slots or {})):
                for name, value in values_by_name.items():
                    if kind == "slot":
                        filled[name][str(value)] += 1
                    if value and str(value) not in dialogue:
                        unwritten[f"{kind} {name}"][str(value)] += 1
        values = []
        for kind, names in (("argument", arguments), ("slot", slots)):
            for name in names:
                choices = [v for tool in tools.values() for v in _enum(tool, name)] if kind == "argument" else []
                common = [
                    v for v, n in unwritten[f"{kind} {name}"].most_common(MAX_KNOWN_VALUES) if n > 1 and v != DONTCARE
                ]
                values.append(tuple(dict.fromkeys(choices + common)))
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
        """The number of fields, F."""
        return len(self.arguments) + len(self.slots)

    @property
    def max_values(self) -> int:
        """The largest number of known values of a field."""
        return max((len(v) for v in self.values), default=0)

    def tool_number(self, name: str) -> int:
        """The number of a tool; -1 for one that is not among ``tools``."""
        return next((i for i, tool in enumerate(self.tools) if tool.name == name), -1)

    def offered(self, conversation: Conversation) -> list[bool]:
        """One flag per tool of ``tools``: whether a conversation offers it."""
        names = {tool.name for tool in conversation.tools}
        return [tool.name in names for tool in self.tools]

    def labels(self, conversation: Conversation, row: Row, tokenizer: Tokenizer) -> IntArray:
        """The labels of a conversation, int32 (2 + 3 F,): decision, tool, kinds, starts and ends. ``IGNORE`` where
        there is nothing to learn."""
        flat = np.full(2 + 3 * self.count, IGNORE, dtype=np.int32)
        labels = SlotLabels.of(flat)
        labels.decision[...] = conversation.decision == "tool_call"
        call = conversation.call

        def set_labels(field: int, value: str, *, argument: bool) -> None:
            labels.kinds[field], span = self._kind(field, value, row, tokenizer, argument)
            if span is not None:
                labels.starts[field], labels.ends[field] = span

        if call is not None and (number := self.tool_number(call.name)) >= 0:
            labels.tool[...] = number
            for i, name in enumerate(self.arguments):
                if name in self.tools[number].parameters["properties"]:
                    set_labels(i, str(call.arguments.get(name, "")), argument=True)
        for i, name in enumerate(self.slots):
            if conversation.slots is not None and name in conversation.slots:
                set_labels(len(self.arguments) + i, conversation.slots[name], argument=False)
        return flat

    def _kind(
        self, field: int, value: str, row: Row, tokenizer: Tokenizer, argument: bool
    ) -> tuple[int, tuple[int, int] | None]:
        """The kind of a value and its span, None without one. Spans of the dialogue come first, then known values, then
        spans of calls and results. A slot's span may differ in case; an argument's must give the exact value."""
        if value in ("", DONTCARE):
            return (SlotKind.DONTCARE if value else SlotKind.NONE), None
        kind = self.values[field].index(value) + FIRST_VALUE if value in self.values[field] else SlotKind.OTHER
        for roles in (DIALOGUE_ROLES, CALL_ROLES):
            if kind != SlotKind.OTHER and argument and roles == CALL_ROLES:
                break
            for span in find_spans(row, value, roles):
                text = span_text(row.ids, span, tokenizer)
                if (self._normalized(field, text) == value) if argument else (text.casefold() == value.casefold()):
                    return SlotKind.SPAN, span
        return kind, None

    def value(self, field: int, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> str | None:
        """The value of a field in an answer (2 + 3 F,) to the tokens ``ids``: "" for no value, None for an unknown
        one."""
        labels = SlotLabels.of(answer)
        kind = int(labels.kinds[field])
        if kind == SlotKind.SPAN:
            text = span_text(ids.tolist(), (int(labels.starts[field]), int(labels.ends[field])), tokenizer)
            return self._normalized(field, text) if field < len(self.arguments) else text
        values = self.values[field]
        if kind >= FIRST_VALUE:
            return values[kind - FIRST_VALUE] if kind - FIRST_VALUE < len(values) else None
        if kind == SlotKind.OTHER:
            return None
        return DONTCARE if kind == SlotKind.DONTCARE else ""

    def _normalized(self, field: int, text: str) -> str:
        """A text of the dialogue as a call writes it: numbers without signs and commas, known values in their case."""
        plain = plain_number(text)
        return next((value for value in self.values[field] if value.casefold() == plain.casefold()), plain)

    def call(self, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> Call | None:
        """The call of an answer, with the arguments that the tool declares; None for a direct answer."""
        labels = SlotLabels.of(answer)
        if labels.decision != 1 or not 0 <= labels.tool < len(self.tools):
            return None
        tool, arguments = self.tools[int(labels.tool)], {}
        for i, name in enumerate(self.arguments):
            if name in tool.parameters["properties"] and (value := self.value(i, answer, ids, tokenizer)) != "":
                arguments[name] = value
        return Call(tool.name, arguments)

    def slot_values(self, answer: IntArray, ids: IntArray, tokenizer: Tokenizer) -> dict[str, str | None]:
        """The value of each slot, as ``value`` gives it."""
        first = len(self.arguments)
        return {name: self.value(first + i, answer, ids, tokenizer) for i, name in enumerate(self.slots)}

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self) | {"tools": [tool.to_json() for tool in self.tools]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fields:
        """Restores what ``to_json`` returned."""
        tools = tuple(map(_saved_tool, value["tools"]))
        values = tuple(tuple(v) for v in value["values"])
        return cls(tools, tuple(value["arguments"]), tuple(value["slots"]), values, value["frequent"])


def span_text(ids: Sequence[int], span: tuple[int, int], tokenizer: Tokenizer) -> str:
    """The text of a span of tokens, first and last position included."""
    return tokenizer.decode(ids[span[0] : span[1] + 1]).strip()


def _saved_tool(value: Mapping[str, Any]) -> Tool:
    """A tool from a model's folder. Earlier versions left out the definitions that references name; the parameters of
    such a tool accept any value, as they did then."""
    try:
        return Tool.of(value)
    except Refused:
        function = value["function"]
        parameters = function["parameters"] | {
            "properties": {name: {} for name in function["parameters"]["properties"]}
        }
        return Tool.of(function | {"parameters": parameters})


def _enum(tool: Tool, parameter: str) -> list[str]:
    schema = tool.arguments.get(parameter, {})
    return [str(choice) for choice in schema.get("enum") or [] if choice is not None]
