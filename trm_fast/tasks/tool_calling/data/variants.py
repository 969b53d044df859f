"""Variants of conversations: other tools beside the called ones, other values in request and calls alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool

SHORTEST = 4
"""Values of fewer characters ("1", "LA") stand in too many other places."""


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
            for call in row.all_calls:
                for name, value in call.arguments.items():
                    if _stands(value, row.query):
                        for key in (name.casefold(), _shape(value)):
                            by_name.setdefault(key, {})[value] = None
        self.values = {name: list(values) for name, values in by_name.items()}

    def of(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A row again, changed at random."""
        if rng.random() < self.others:
            called = {call.name for call in row.all_calls}
            kept = [tool for tool in row.tools if tool.name in called]
            row = replace(row, tools=(*kept, *self._strange(row, rng)))
        return self._other_values(row, rng) if self.exchanged else row

    def uncalled(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A row up to its last user turn, offered none of its own tools."""
        last = max((i for i, turn in enumerate(row.turns) if turn.role == "user"), default=len(row.turns) - 1)
        return replace(row, tools=self._strange(row, rng), turns=row.turns[: last + 1], call=None)

    def _strange(self, row: Conversation, rng: np.random.Generator) -> tuple[Tool, ...]:
        """One to four tools that the row does not have."""
        if not self.tools:
            return ()
        names = {tool.name for tool in row.tools}
        drawn = [self.tools[i] for i in rng.integers(len(self.tools), size=int(rng.integers(1, 5)))]
        return tuple({tool.name: tool for tool in drawn if tool.name not in names}.values())

    def _other_values(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        query, calls = row.query, row.all_calls
        names = {v: n for call in calls for n, v in call.arguments.items() if _stands(v, query)}
        changes: dict[str, str] = {}
        for value, name in names.items():
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
            arguments = {n: changes.get(v, v) if isinstance(v, str) else v for n, v in call.arguments.items()}
            return Call(call.name, arguments)

        return replace(row.rewritten(changed, called), reply=changed(row.reply))


def _stands(value: object, text: str) -> bool:
    """Word for word, not within a word."""
    return isinstance(value, str) and len(value) >= SHORTEST and re.search(_pattern(value), text) is not None


def _pattern(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)"


def _shape(value: str) -> str:
    """Values of one shape look alike: how many words, digits or not, a capital or not."""
    words = min(3, len(value.split()))
    return f"\x00{words}{any(c.isdigit() for c in value):d}{value[0].isupper():d}{value.isalnum():d}"
