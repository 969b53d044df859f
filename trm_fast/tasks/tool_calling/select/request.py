"""A request with its tools, cut to fit into an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.text.finding import TurnWords
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon


@dataclass(frozen=True)
class RequestLimits:
    """Maximum numbers: positions, words, tools and arguments per example, and tokens per position (``bag``)."""

    positions: int
    words: int
    tools: int
    arguments: int
    bag: int


@dataclass(frozen=True)
class Request:
    """A request and its tools, sorted by name: in the training files the order in which tools are offered reveals the
    answer. ``arguments`` has the number of the tool and the name of each argument. ``cut`` says whether words, tools or
    arguments were left out."""

    words: TurnWords
    tools: list[Tool]
    arguments: list[tuple[int, str]]
    cut: bool

    @classmethod
    def of(cls, query: str, tools: Sequence[Tool], limits: RequestLimits, lexicon: Lexicon) -> Request:
        """Cuts a request to its last words, and its tools to the nearest ones by word overlap."""
        all_words = TurnWords.of(query)
        near = tools if len(tools) <= limits.tools else lexicon.nearest(query, tools, limits.tools)
        kept = sorted(near, key=lambda tool: tool.name)
        arguments = [(t, name) for t, tool in enumerate(kept) for name in tool.parameters["properties"]]
        words = TurnWords(query, all_words.spans[-limits.words :])
        limit = min(limits.arguments, limits.positions - 1 - len(words) - 2 * len(kept))
        cut = len(words) < len(all_words) or len(kept) < len(tools) or len(arguments) > limit
        return cls(words, kept, arguments[:limit], cut)

    @property
    def query(self) -> str:
        """The text of the request, uncut."""
        return self.words.text

    def schema(self, argument: int) -> dict[str, Any]:
        """The schema of an argument, by its index in ``arguments``."""
        tool, name = self.arguments[argument]
        return self.tools[tool].arguments[name]
