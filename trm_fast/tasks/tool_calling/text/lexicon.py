"""Splits requests and tools into words and measures their rarity and overlap, for the baseline of tool choice and for
features of the models."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Tool

# A word is a number with its points and commas, even with a short unit right after it; letters and digits; a sign; or
# one character of a script without spaces.
_UNIT = r"(?=[^\W\d_]{1,2}(?![^\W_]))"
_WORD = re.compile(
    rf"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\d+(?:[.,]\d+)*(?:(?![^\W\d])|{_UNIT})|[^\W_]+|[^\w\s]|_"
)
_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ENDINGS = ("ations", "ation", "ings", "ing", "ions", "ion", "ies", "ers", "er", "es", "ed", "s", "e", "y")
MIN_STEM_LENGTH = 3
"""The minimum number of letters that a stem keeps."""
LEXICON_FILE = "lexicon.json"


def words(text: str) -> list[tuple[int, int]]:
    """The (begin, end) characters of each word, number and sign in a text."""
    return [match.span() for match in _WORD.finditer(text)]


@lru_cache(maxsize=1 << 16)
def stems(text: str) -> tuple[str, ...]:
    """The stems of a text's words; ``camelCase`` and ``snake_case`` are split.

    Examples:
        >>> stems("getCities near_me")
        ('get', 'cit', 'near', 'me')
    """
    return tuple(stem(w.lower()) for w in re.findall(r"[^\W_]+", _CASE.sub(" ", text)))


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without a common English ending, so that ``cities`` and ``city`` are equal."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= MIN_STEM_LENGTH:
            return word[: -len(ending)]
    return word


def four_grams(text: str) -> set[str]:
    """All sequences of four characters in a text, within words and across word boundaries."""
    joined = " ".join(re.findall(r"[^\W_]+", _CASE.sub(" ", text).lower()))
    return {joined[i : i + 4] for i in range(len(joined) - 3)}


def tool_text(tool: Tool) -> str:
    """A tool's name, its description and the names of its arguments."""
    return " ".join([tool.name, tool.description, *tool.parameters["properties"]])


def arguments_text(tool: Tool) -> str:
    """The descriptions of a tool's arguments."""
    return " ".join(str(schema.get("description", "")) for schema in tool.arguments.values())


def whole_text(tool: Tool) -> str:
    """``tool_text`` and ``arguments_text`` together."""
    return f"{tool_text(tool)} {arguments_text(tool)}"


@dataclass(frozen=True)
class Lexicon:
    """The rarity of stems: in how many of ``count`` tools each stem occurs."""

    count: int
    tools_with: Mapping[str, int] = field(repr=False)
    _roots: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> Lexicon:
        """Counts the stems in the whole texts of tools."""
        tools_with: Counter[str] = Counter()
        texts = [whole_text(tool) for tool in tools]
        for text in texts:
            tools_with.update(set(stems(text)))
        return cls(len(texts), dict(tools_with))

    def weight(self, word: str) -> float:
        """The inverse document frequency of a stem: 0 for one that all tools have."""
        return math.log((self.count + 1) / (self.tools_with.get(word, 0) + 1))

    def total(self, words: Iterable[str]) -> float:
        """The sum of weights. It is exact, so that it does not depend on the order of a set."""
        return math.fsum(map(self.weight, words))

    def root(self, text: str) -> float:
        """The square root of a text's total weight, by which the overlap with long texts is scaled down."""
        if text not in self._roots:
            self._roots[text] = max(math.sqrt(self.total(set(stems(text)))), 1e-3)
        return self._roots[text]

    def overlap(self, request: set[str], text: str) -> float:
        """The weight of the stems that a text shares with a request, divided by the text's ``root``."""
        return self.total(request.intersection(stems(text))) / self.root(text)

    def covered(self, request: set[str], text: str) -> float:
        """The share of a text's weight that occurs in a request."""
        return self.total(request.intersection(stems(text))) / self.root(text) ** 2

    def nearest(self, request: str, tools: Sequence[Tool], count: int) -> list[Tool]:
        """The ``count`` tools with the largest word overlap with a request, the nearest first."""
        of_request = set(stems(request))
        return sorted(tools, key=lambda tool: -self.overlap(of_request, tool_text(tool)))[:count]

    def to_json(self) -> dict[str, Any]:
        """The lexicon as JSON."""
        return {"count": self.count, "tools_with": dict(sorted(self.tools_with.items()))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lexicon:
        """Restores what ``to_json`` returned."""
        return cls(int(value["count"]), {str(k): int(v) for k, v in value["tools_with"].items()})
