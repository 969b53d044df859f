"""Words of requests and tools, how rare they are, and how much of a tool's text a request shares: the baseline of tool
choice, and features of the model that is to beat it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Tool

# Numbers with their points and commas, also before a short unit; words, signs; scripts without spaces by character.
_UNIT = r"(?=[^\W\d_]{1,2}(?![^\W_]))"
_WORD = re.compile(
    rf"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\d+(?:[.,]\d+)*(?:(?![^\W\d])|{_UNIT})|[^\W_]+|[^\w\s]|_"
)
_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ENDINGS = ("ations", "ation", "ings", "ing", "ions", "ion", "ies", "ers", "er", "es", "ed", "s", "e", "y")
SHORTEST_STEM = 3
LEXICON_FILE = "lexicon.json"


def words(text: str) -> list[tuple[int, int]]:
    """Where each word, number or sign stands: (begin, end) characters."""
    return [match.span() for match in _WORD.finditer(text)]


@lru_cache(maxsize=1 << 16)
def stems(text: str) -> tuple[str, ...]:
    """Words without case and ending; ``camelCase`` and ``snake_case`` come apart."""
    return tuple(stem(w.lower()) for w in re.findall(r"[^\W_]+", _CASE.sub(" ", text)))


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without one common English ending, so that ``cities`` meets ``city``."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word[: -len(ending)]
    return word


def letters(text: str) -> set[str]:
    """Groups of four letters, within words and across their borders."""
    joined = " ".join(re.findall(r"[^\W_]+", _CASE.sub(" ", text).lower()))
    return {joined[i : i + 4] for i in range(len(joined) - 3)}


def tool_text(tool: Tool) -> str:
    """A tool's name, description and the names of its arguments."""
    return " ".join([tool.name, tool.description, *tool.parameters["properties"]])


def arguments_text(tool: Tool) -> str:
    """The descriptions of a tool's arguments."""
    return " ".join(str(schema.get("description", "")) for schema in tool.parameters["properties"].values())


def whole_text(tool: Tool) -> str:
    """The whole text of a tool."""
    return f"{tool_text(tool)} {arguments_text(tool)}"


@dataclass(frozen=True)
class Lexicon:
    """In how many of ``count`` tools' texts each stem stands."""

    count: int
    tools_with: Mapping[str, int] = field(repr=False)
    _roots: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> Lexicon:
        tools_with: Counter[str] = Counter()
        texts = [whole_text(tool) for tool in tools]
        for text in texts:
            tools_with.update(set(stems(text)))
        return cls(len(texts), dict(tools_with))

    def weight(self, word: str) -> float:
        """Inverse document frequency: 0 for a stem of every tool."""
        return math.log((self.count + 1) / (self.tools_with.get(word, 0) + 1))

    def total(self, words: Iterable[str]) -> float:
        """Exact, so that the order of a set does not count."""
        return math.fsum(map(self.weight, words))

    def root(self, text: str) -> float:
        """The root of a text's whole weight, which long texts have more of; not below a small number."""
        if text not in self._roots:
            self._roots[text] = max(math.sqrt(self.total(set(stems(text)))), 1e-3)
        return self._roots[text]

    def overlap(self, request: set[str], text: str) -> float:
        """Weight of the stems that a text shares with a request, over the root of the text's whole weight."""
        return self.total(request.intersection(stems(text))) / self.root(text)

    def covered(self, request: set[str], text: str) -> float:
        """Share of a text's weight that a request has."""
        return self.total(request.intersection(stems(text))) / self.root(text) ** 2

    def nearest(self, request: str, tools: Sequence[Tool], count: int) -> list[Tool]:
        """The ``count`` tools with the largest word overlap with a request, the nearest first."""
        of_request = set(stems(request))
        return sorted(tools, key=lambda tool: -self.overlap(of_request, tool_text(tool)))[:count]

    def to_json(self) -> dict[str, Any]:
        return {"count": self.count, "tools_with": dict(sorted(self.tools_with.items()))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lexicon:
        return cls(int(value["count"]), {str(k): int(v) for k, v in value["tools_with"].items()})
