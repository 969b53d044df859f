"""Makes modified copies of conversations: with other uncalled tools, and with other values in requests and calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool

MIN_VALUE_LENGTH = 4
"""The minimum length of a value that is replaced: shorter ones, such as "1" and "LA", too often occur by chance."""


class Variants:
    """Makes modified copies of conversations.

    Tools that are not called are replaced by tools of other conversations. Values that occur word for word in the
    request are replaced by values of the same argument in other conversations, so that a model has to find an
    argument's value in the request.

    Args:
        rows: the conversations that tools and values are taken from.
        others: the probability that a copy gets other uncalled tools.
        exchanged: the probability that a value is replaced.
    """

    def __init__(self, rows: Sequence[Conversation], others: float, exchanged: float) -> None:
        self.others, self.exchanged = others, exchanged
        self.tools = list({tool.name: tool for row in rows for tool in row.tools}.values())
        by_name: dict[str, dict[str, None]] = {}
        for row in rows:
            for call in row.all_calls:
                for name, value in call.arguments.items():
                    if _occurs(value, row.query):
                        for key in (name.casefold(), _shape(value)):
                            by_name.setdefault(key, {})[value] = None
        self.values = {name: list(values) for name, values in by_name.items()}

    def of(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A copy of a conversation, modified at random."""
        if rng.random() < self.others:
            called = {call.name for call in row.all_calls}
            kept = [tool for tool in row.tools if tool.name in called]
            row = replace(row, tools=(*kept, *self._foreign_tools(row, rng)))
        return self._other_values(row, rng) if self.exchanged else row

    def uncalled(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        """A copy up to the last user turn that offers none of the conversation's tools, so that no call is right."""
        last = max((i for i, turn in enumerate(row.turns) if turn.role == "user"), default=len(row.turns) - 1)
        return replace(row, tools=self._foreign_tools(row, rng), turns=row.turns[: last + 1], call=None)

    def _foreign_tools(self, row: Conversation, rng: np.random.Generator) -> tuple[Tool, ...]:
        """Up to four tools that the conversation does not offer."""
        if not self.tools:
            return ()
        names = {tool.name for tool in row.tools}
        drawn = [self.tools[i] for i in rng.integers(len(self.tools), size=int(rng.integers(1, 5)))]
        return tuple({tool.name: tool for tool in drawn if tool.name not in names}.values())

    def _other_values(self, row: Conversation, rng: np.random.Generator) -> Conversation:
        query, calls = row.query, row.all_calls
        names = {v: n for call in calls for n, v in call.arguments.items() if _occurs(v, query)}
        changes: dict[str, str] = {}
        for value, name in names.items():
            # If one value contains another, replacing it would change both.
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


def _occurs(value: object, text: str) -> bool:
    """Whether a value occurs in a text word for word, not within a word."""
    return isinstance(value, str) and len(value) >= MIN_VALUE_LENGTH and re.search(_pattern(value), text) is not None


def _pattern(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)"


def _shape(value: str) -> str:
    """A key that similar values share: the number of words, and whether there are digits, a capital or signs."""
    words = min(3, len(value.split()))
    return f"\x00{words}{any(c.isdigit() for c in value):d}{value[0].isupper():d}{value.isalnum():d}"
