"""A request with the tools that fit beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.text.finding import TurnWords
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon


@dataclass(frozen=True)
class RequestLimits:
    """Most positions, words, tools and arguments of a row, and tokens of a position."""

    positions: int
    words: int
    tools: int
    arguments: int
    bag: int


@dataclass(frozen=True)
class Request:
    """A request with its tools in the order of their names: the order in which they are offered says nothing.
    ``arguments``: (tool's number, argument's name). ``cut``: words, tools or arguments are left out."""

    words: TurnWords
    tools: list[Tool]
    arguments: list[tuple[int, str]]
    cut: bool

    @classmethod
    def of(cls, query: str, tools: Sequence[Tool], limits: RequestLimits, lexicon: Lexicon) -> Request:
        """Of too many tools those stay that share most words with the request, of a long request its last words."""
        every_word = TurnWords.of(query)
        near = tools if len(tools) <= limits.tools else lexicon.nearest(query, tools, limits.tools)
        kept = sorted(near, key=lambda tool: tool.name)
        arguments = [(t, name) for t, tool in enumerate(kept) for name in tool.parameters["properties"]]
        words = TurnWords(query, every_word.spans[-limits.words :])
        room = min(limits.arguments, limits.positions - 1 - len(words) - 2 * len(kept))
        cut = len(words) < len(every_word) or len(kept) < len(tools) or len(arguments) > room
        return cls(words, kept, arguments[:room], cut)

    @property
    def query(self) -> str:
        return self.words.text

    def schema(self, argument: int) -> dict[str, Any]:
        """The schema of an argument, by its number."""
        tool, name = self.arguments[argument]
        schema: dict[str, Any] = self.tools[tool].parameters["properties"][name]
        return schema
