"""The format ``toolace``: tools as JSON in the system text, and calls in brackets, ``[f(a=1), g(b="x")]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.brackets import is_call_list, read_bracket_calls
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import read_chat
from trm_fast.tasks.tool_calling.data.literals import decode_at, skip_spaces
from trm_fast.tasks.tool_calling.data.marks import register_mark

_OPENING = re.compile(r"[\[{](?=\s*[\[{\"\]])")
_KEYS = ("parameters", "input_schema", "inputSchema", "description")


def read_toolace(row: Any, where: str = "") -> Conversation:
    """Reads ``{"system": text with tools, "conversations": [{"from": ..., "value": ...}]}``."""
    return read_chat(row, where, "conversations")


def find_tools(text: str, start: int, _: Sequence[Tool]) -> int:
    """The position of the next tool, or list of tools, that stands in a text as JSON, without a mark."""
    for match in _OPENING.finditer(text, start):
        try:
            value, _end = decode_at(text, match.start())
        except ValueError:
            continue
        values = value if isinstance(value, list) else [value]
        if values and all(map(_is_tool, values)):
            return match.start()
    return -1


def read_tool_list(text: str, begin: int, _: Sequence[Tool], __: str) -> tuple[list[Any], int]:
    """The tool, or the list of tools, at a position."""
    value, end = decode_at(text, begin)
    return (value if isinstance(value, list) else [value]), end


def find_calls(text: str, start: int, tools: Sequence[Tool]) -> int:
    """The position of the next call or list of calls in brackets.

    The names of other functions than the offered ones only count if the whole text is a list of calls: code has
    brackets too.
    """
    names = [tool.name for tool in tools]
    if start == 0 and is_call_list(text, names):
        return skip_spaces(text, 0)
    if not names:
        return -1
    choices = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    match = re.compile(rf"\[\s*(?:{choices})\s*\(").search(text, start)
    return match.start() if match else -1


def read_calls(text: str, begin: int, tools: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The calls at a position."""
    return read_bracket_calls(text, begin, [tool.name for tool in tools], field)


def _is_tool(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    inner = value.get("function", value)
    return isinstance(inner, Mapping) and isinstance(inner.get("name"), str) and any(key in inner for key in _KEYS)


register_mark("bare tools", "tools as JSON", find_tools, read_tool_list)
register_mark("calls", "[f(a=1)]", find_calls, read_calls)
about = Command(
    "Reads ToolACE rows: tools in the system text, and calls in brackets.",
    "trm-fast data toolace data.json --preview 1 --out swift.json",
    writes="swift",
)
register(Format("toolace", ("system", "conversations"), read_toolace, commands={"toolace": about}))
