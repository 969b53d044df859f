"""Variants of conversations: slot values replaced by other values of the same slot, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.conversation import DONTCARE, Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.encoding import plain_number, value_pattern

SHORTEST = 4
"""Values of fewer characters ("1", "LA") stand in too many other places."""


def value_bank(conversations: Sequence[Conversation], slots: Mapping[str, bool]) -> dict[str, list[str]]:
    """For each slot the values that may stand in for each other, in order; a closed slot (True) has none."""
    bank: dict[str, dict[str, None]] = {name: {} for name, closed in slots.items() if not closed}
    for conversation in conversations:
        said = "\n".join(turn.text for turn in conversation.turns)
        for name, value in (conversation.slots or {}).items():
            if name in bank and len(value) >= SHORTEST and value != DONTCARE and value in said:
                bank[name][value] = None
    return {name: list(values) for name, values in bank.items()}


def variant(conversation: Conversation, bank: Mapping[str, list[str]], rng: np.random.Generator) -> Conversation:
    """The conversation with its open slots' values exchanged. A value whose argument is written in another way (a date,
    a nickname) stays, since the argument would not follow."""
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

    def call_of(call: Call | None) -> Call | None:
        if call is None:
            return None
        return Call(call.name, {n: plain.get(str(v), v) for n, v in call.arguments.items()})

    turns = []
    for turn in conversation.turns:
        call = call_of(turn.call)
        turns.append(Turn(turn.role, changed(turn.text)) if call is None else Turn.calling(call))
    slots = {name: changes.get(value, value) for name, value in slots.items()}
    return replace(conversation, turns=tuple(turns), slots=slots, call=call_of(conversation.call))


def _alike(conversation: Conversation, name: str, value: str) -> bool:
    """Whether every call of the dialogue writes the slot as it was said, and no date hides in it."""
    calls = [*conversation.calls, *([conversation.call] if conversation.call else [])]
    written = [str(call.arguments[name]) for call in calls if name in call.arguments]
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", written[-1]) if written else None
    return not dated and all(v == plain_number(value) or v == value for v in written[-1:])


class Variants:
    """Further rows of the same kind, one at a time: tools that are not called come from other rows, and values that
    stand word for word in the request are those of the same argument in other rows. What an argument's value is then
    has to be found in the request.

    ``others``: the chance that a row has other tools; ``exchanged``: the chance of each value.
    """

    def __init__(self, rows: Sequence[Conversation], others: float, exchanged: float) -> None:
        self.others, self.exchanged = others, exchanged
        self.tools = list({tool.name: tool for row in rows for tool in row.tools}.values())
        by_name: dict[str, dict[str, None]] = {}
        for row in rows:
            for call in _calls(row):
                for name, value in call.arguments.items():
                    if _stands(value, row.query):
                        for key in (name.casefold(), _shape(value)):
                            by_name.setdefault(key, {})[value] = None
        self.values = {name: list(values) for name, values in by_name.items()}

    def of(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A row again, changed at random."""
        if rng.random() < self.others:
            row = self._other_tools(row, rng)
        return self._other_values(row, rng) if self.exchanged else row

    def uncalled(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A row up to its last user turn, offered none of its own tools."""
        last = max((i for i, turn in enumerate(row.turns) if turn.role == "user"), default=len(row.turns) - 1)
        return replace(row, tools=self._strange(row, rng), turns=row.turns[: last + 1], call=None)

    def _other_tools(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        called = {call.name for call in _calls(row)}
        kept = [tool for tool in row.tools if tool.name in called]
        return replace(row, tools=(*kept, *self._strange(row, rng)))

    def _strange(self, row: Conversation, rng: np.random.Generator) -> tuple[Tool, ...]:
        """One to four tools that the row does not have."""
        if not self.tools:
            return ()
        names = {tool.name for tool in row.tools}
        drawn = [self.tools[i] for i in rng.integers(len(self.tools), size=int(rng.integers(1, 5)))]
        return tuple({tool.name: tool for tool in drawn if tool.name not in names}.values())

    def _other_values(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        query, calls = row.query, _calls(row)
        found = {v: n for call in calls for n, v in call.arguments.items() if _stands(v, query)}
        changes: dict[str, str] = {}
        for value, name in found.items():
            # A value within another one, or that has another one within it, would change that, too.
            others = [v for call in calls for v in call.arguments.values() if isinstance(v, str) and v and v != value]
            apart = not any(value in other or other in value for other in others)
            if apart and rng.random() < self.exchanged:
                choices = self.values.get(name.casefold(), [])
                choices = choices if len(choices) > 3 else self.values.get(_shape(value), [value])
                changes[value] = choices[int(rng.integers(len(choices)))]
        if not changes:
            return row
        pattern = re.compile("|".join(map(_pattern, changes)))

        def changed(text: str) -> str:
            return pattern.sub(lambda match: changes[match[0]], text)

        def called(call: Call) -> Call:
            given = {n: changes.get(v, v) if isinstance(v, str) else v for n, v in call.arguments.items()}
            return Call(call.name, given)

        turns = tuple(
            Turn(turn.role, changed(turn.text)) if turn.call is None else Turn.calling(called(turn.call))
            for turn in row.turns
        )
        return replace(row, turns=turns, call=row.call and called(row.call), reply=changed(row.reply))


def _calls(row: Conversation) -> tuple[Call, ...]:
    """Of the turns, and the one that comes next."""
    return (*row.calls, *([row.call] if row.call else []))


def _stands(value: object, text: str) -> bool:
    """Word for word, not within a word."""
    return isinstance(value, str) and len(value) >= SHORTEST and re.search(_pattern(value), text) is not None


def _pattern(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)"


def _shape(value: str) -> str:
    """Values of one shape look alike: how many words, digits or not, a capital or not."""
    words = min(3, len(value.split()))
    return f"\x00{words}{any(c.isdigit() for c in value):d}{value[0].isupper():d}{value.isalnum():d}"
