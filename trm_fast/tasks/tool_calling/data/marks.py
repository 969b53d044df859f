"""Calls, tools and results that a text has between marks, such as ``<tool_call>``. Each format registers its marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool
from trm_fast.tasks.tool_calling.data.literals import decode_at, parse_literal, skip_spaces
from trm_fast.tasks.tool_calling.data.refused import Refused, short

Kind = Literal["calls", "tools", "bare tools", "results"]
"""What a mark is for. Tools without a mark, as JSON alone, are read in system texts only: users paste JSON too."""
END_OF_TURN = re.compile(
    r"\s*(?:<\|(?:endoftext|im_end|eot_id|eom_id|end_of_text|end|end_of_turn)\|>|</s>|<end_of_turn>)\s*$"
)
UNKNOWN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<[\uff5c|][^<>\s]{1,60}[\uff5c|]>"  # a token of a chat template
    r"|<[|/]*(?:tools?|available_tools|tool[ _-]?(?:calls?|use|responses?|results?|code|outputs?)|multiplefunctions"
    r"|function[ _-]?(?:calls?|responses?|results?|outputs?)|functioncalls?|(?:start|end)_function_\w+)"
    r"(?:\s[^<>]*)?\|?>"
    r"|<(?:invoke|function)\s*(?:=|name=)|<<function>>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|(?:TOOL|FUNCTION)_\w+|ARGS|CALL_ID)\]"
    r"|```tool_(?:code|call)|\bfunctools\[|\u273f\w+\u273f|^\s*Action:.*\n\s*Action Input:",
    re.IGNORECASE | re.MULTILINE,
)
"""What a call, a tool, a result or a template's token looks like in a text."""
CALL_SIGNS = (
    r"[\"'](?:name|function|tool|action|function_name|tool_name)[\"']\s*:\s*[\"'](?:{names})[\"']"
    r"|(?<![\w.])(?:{names})\(\s*\w+\s*=(?!=)"
)
"""What a call of a tool looks like in a text: JSON, or Python's notation."""
THOUGHTS = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
"""A text to oneself, in which a model may plan its calls."""
TOOL_SIGNS = re.compile(r"[\"'](?:parameters|input_schema|inputSchema)[\"']\s*:\s*[{\[]|\bnamespace functions\b")
"""What the definition of a tool looks like in a text."""


@dataclass(frozen=True)
class Passage:
    """What a passage of a text says: calls or tools as JSON values, or the texts of results."""

    value: Sequence[Any]


Find = Callable[[str, int, Sequence[Tool]], int]
"""The position of the first passage at or after a position, or -1. It also gets the offered tools."""
Read = Callable[[str, int, Sequence[Tool], str], tuple[Sequence[Any], int]]
"""Reads the passage at a position: what it says, and the position after it. It also gets the offered tools and the
field for messages."""
_MARKS: dict[tuple[Kind, str], tuple[Find, Read]] = {}


def register_mark(kind: Kind, name: str, find: Find | re.Pattern[str], read: Read) -> None:
    """Adds a mark.

    Args:
        kind: what the mark is for.
        name: what messages call it.
        find: finds its passages, or the pattern that they start with.
        read: reads the passage at a position.

    Raises:
        ValueError: the mark is known already.
    """
    if (kind, name) in _MARKS:
        raise ValueError(f"the mark {name} is known already")
    _MARKS[kind, name] = (_finder(find) if isinstance(find, re.Pattern) else find), read


def passages(kinds: Kind | Collection[Kind], text: str, tools: Sequence[Tool], field: str) -> Iterator[str | Passage]:
    """Splits a text into passages of some kinds and the texts around them, without spaces at their ends.

    Raises:
        Refused: a mark is followed by something else than it should be.
    """
    position = 0
    chosen = (kinds,) if isinstance(kinds, str) else kinds
    marks = [mark for (kind, _), mark in _MARKS.items() if kind in chosen]
    while True:
        starts = [(begin, read) for find, read in marks if (begin := find(text, position, tools)) >= 0]
        if not starts:
            if text[position:].strip():
                yield text[position:].strip() if position else text
            return
        # Only the first passage is read: a later mark may stand inside one of its values.
        begin, read = min(starts, key=lambda start: start[0])
        if text[position:begin].strip():
            yield text[position:begin].strip()
        value, position = read(text, begin, tools, field)
        yield Passage(value)


def read_calls(text: str, tools: Sequence[Tool], field: str) -> Iterator[str | tuple[Call, str | None]]:
    """The texts of an assistant's text, and its calls with their ids, in order.

    Raises:
        Refused: the text has a mark that cannot be read.
    """
    for part in passages("calls", without_end(text), tools, field):
        if isinstance(part, str):
            yield plain(part, field, tools)
            continue
        for value in part.value:
            yield Call.of(value, field), call_id(value)


def call_id(value: Any) -> str | None:
    """The id of a call as it stands in a file, if it has one."""
    if not isinstance(value, Mapping):
        return None
    return next((str(value[key]) for key in ("id", "call_id", "tool_call_id") if value.get(key) is not None), None)


def plain(text: str, field: str, tools: Sequence[Tool] = ()) -> str:
    """The text itself, after a check that it has no mark, and no call of an offered tool.

    Raises:
        Refused: it has a mark that was not read, or a call without a mark.
    """
    names = "|".join(re.escape(tool.name) for tool in tools if tool.name in text)
    if names and (match := re.search(CALL_SIGNS.format(names=names), THOUGHTS.sub("", text))):
        raise Refused(field, f"has {short(match[0].strip())}, a call without a mark inside a text")
    if match := UNKNOWN.search(text):
        names = ", ".join(dict.fromkeys(name for kind, name in _MARKS if "tools" not in kind))
        raise Refused(field, f"has {short(match[0].strip())}, which is not known here; marks that are read: {names}")
    return text


def without_end(text: str) -> str:
    """The text without a token that ends a turn, such as ``<|im_end|>``."""
    while match := END_OF_TURN.search(text):
        text = text[: match.start()]
    return text


def values_after(text: str, position: int, closing: str, field: str) -> tuple[list[Any], int]:
    """The JSON value or Python literal between a mark and the closing mark, and the position after that.

    The closing mark may be missing at the end of the text, or if the next opening mark follows.

    Returns:
        The items of the value if it is a list, else the value alone; and the position.

    Raises:
        Refused: there is no value, or more than one.
    """
    begin = skip_spaces(text, position)
    try:
        value, end = decode_at(text, begin)
        end = skip_spaces(text, end)
    except ValueError:
        stop = text.find(closing, begin)
        end = len(text) if stop < 0 else stop
        value = parse_literal(without_end(text[begin:end]).strip(), field)
    if text.startswith(closing, end):
        end += len(closing)
    elif end < len(text) and not text.startswith(closing.replace("</", "<"), end):
        raise Refused(field, f"after {short(value)} comes {short(text[end:])}, not {closing} or the end")
    return (value if isinstance(value, list) else [value]), end


def _finder(pattern: re.Pattern[str]) -> Find:
    def find(text: str, start: int, _: Sequence[Tool]) -> int:
        match = pattern.search(text, start)
        return match.start() if match else -1

    return find
