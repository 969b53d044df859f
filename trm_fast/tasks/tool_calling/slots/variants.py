"""Makes modified copies of conversations, in which other values of the same slot replace the values of slots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import DONTCARE, Call, Conversation
from trm_fast.tasks.tool_calling.data.variants import MIN_VALUE_LENGTH
from trm_fast.tasks.tool_calling.slots.encoding import plain_number, value_pattern


def value_bank(conversations: Sequence[Conversation], slots: Sequence[str]) -> dict[str, list[str]]:
    """The values of each of ``slots`` that may replace each other, in order of their first occurrence."""
    bank: dict[str, dict[str, None]] = {name: {} for name in slots}
    for conversation in conversations:
        dialogue = "\n".join(turn.text for turn in conversation.turns)
        for name, value in (conversation.slots or {}).items():
            if name in bank and len(value) >= MIN_VALUE_LENGTH and value != DONTCARE and value in dialogue:
                bank[name][value] = None
    return {name: list(values) for name, values in bank.items()}


def variant(conversation: Conversation, bank: Mapping[str, list[str]], rng: np.random.Generator) -> Conversation:
    """A copy of a conversation with other slot values, drawn from ``bank``. A value that a call writes
    differently (a date, a nickname) is kept, because the argument would keep the old value."""
    slots = dict(conversation.slots or {})
    changes: dict[str, str] = {}
    for name, value in slots.items():
        choices = bank.get(name, [])
        if value not in choices or value in changes or not _alike(conversation, name, value):
            continue
        changes[value] = choices[int(rng.integers(len(choices)))]
    if not changes:
        return conversation
    patterns = [(value_pattern(old, exact=True), new) for old, new in changes.items()]
    marks = [f"\x00{i}\x00" for i in range(len(patterns))]

    def changed(text: str) -> str:
        for (pattern, _), mark in zip(patterns, marks, strict=True):
            text = pattern.sub(mark, text)
        for (_, new), mark in zip(patterns, marks, strict=True):
            text = text.replace(mark, new)
        return text

    plain = {plain_number(old): plain_number(new) for old, new in changes.items()}

    def called(call: Call) -> Call:
        return Call(call.name, {n: plain.get(str(v), v) for n, v in call.arguments.items()})

    slots = {name: changes.get(value, value) for name, value in slots.items()}
    return replace(conversation.rewritten(changed, called), slots=slots)


def _alike(conversation: Conversation, name: str, value: str) -> bool:
    """Whether the last call with this argument writes the value as the dialogue does, and the value is not a date."""
    written = [str(call.arguments[name]) for call in conversation.all_calls if name in call.arguments]
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", written[-1]) if written else None
    return not dated and all(v == plain_number(value) or v == value for v in written[-1:])
