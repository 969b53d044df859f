"""The format ``glaive``: the raw rows of glaive-function-calling, whose dialogue is one text.

Version 2 has columns ``system`` and ``chat``, version 1 has one column ``sample``. Calls stand after
``<functioncall>``, also in Glaive's ShareGPT versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, check_columns, offered_tools, row_id
from trm_fast.tasks.tool_calling.data.literals import parse_literal
from trm_fast.tasks.tool_calling.data.marks import register_mark, without_end
from trm_fast.tasks.tool_calling.data.messages import read_messages
from trm_fast.tasks.tool_calling.data.refused import Refused, short

_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(SYSTEM|USER|ASSISTANT|FUNCTION CALL|FUNCTION RESPONSE):[ \t]*")
_ROLES = {
    "SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION CALL": "tool_call",
    "FUNCTION RESPONSE": "tool",
}  # fmt: skip
_CALL = re.compile(r"<(functioncall|function_call|multiplefunctions)>")
_END = re.compile(r"</(?:functioncall|function_call|multiplefunctions)>")


def read_glaive(row: Any, where: str = "") -> Conversation:
    """Reads ``{"system": "SYSTEM: ...", "chat": "USER: ... ASSISTANT: ..."}``, or ``{"sample": ...}`` with all turns in
    one text."""
    row = as_object(row)
    if "sample" in row:
        check_columns(row, ("sample", "tools"))
        return _conversation(row, "sample", "", where)
    check_columns(row, ("system", "chat", "tools"))
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise Refused("system", f"must be text, not {short(system)}")
    return _conversation(row, "chat", system.strip().removeprefix("SYSTEM:").strip(), where)


def read_call(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The call after ``<functioncall>``, which ends with the text, or before the next mark."""
    first = text.index(">", begin) + 1
    if text.startswith("<multiplefunctions>", begin):
        return [], first
    following = _CALL.search(text, first)
    stop = following.start() if following else len(text)
    if closing := _END.search(text, first, stop):
        stop = closing.start()
    value = parse_literal(without_end(text[first:stop]).strip(), f"{field} <functioncall>")
    end = stop
    while closing := _END.match(text, end):
        end = len(text) - len(text[closing.end() :].lstrip())
    return (value if isinstance(value, list) else [value]), end


def _conversation(row: Mapping[str, Any], field: str, system: str, where: str) -> Conversation:
    text = row.get(field)
    if not isinstance(text, str):
        raise Refused(field, "is missing" if text is None else f"must be text, not {short(text)}")
    turns = _SPEAKER.split(text)
    if turns[0].strip():
        raise Refused(field, f"starts with {short(turns[0].strip())}, not with USER: or ASSISTANT:")
    messages = [
        {"role": _ROLES[speaker], "content": without_end(words).strip()}
        for speaker, words in zip(turns[1::2], turns[2::2], strict=True)
    ]
    tools, read = read_messages(messages, offered_tools(row), field, ("system", system) if system else None)
    return Conversation(tools, tuple(read), where, row_id(row))


register_mark("calls", "<functioncall>", _CALL, read_call)
about = Command(
    "Reads raw Glaive rows (system and chat, or sample); ShareGPT versions are read by hermes.",
    "trm-fast data glaive glaive-function-calling-v2.json --preview 1 --out swift.json",
    writes="swift",
)
register(Format("glaive", ("system", "chat"), read_glaive, commands={"glaive": about}))
register(Format("glaive-v1", ("sample",), read_glaive))
