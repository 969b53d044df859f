"""The format ``hermes``: ShareGPT turns whose text has tools, calls and results between tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import id_column, read_chat, tools_text
from trm_fast.tasks.tool_calling.data.literals import parse_sequence
from trm_fast.tasks.tool_calling.data.marks import register_mark, values_after
from trm_fast.tasks.tool_calling.data.refused import Refused, short

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)


def read_hermes(row: Any, where: str = "") -> Conversation:
    """Reads ``{"conversations": [{"from": ..., "value": ...}]}``.

    Roles are ``human`` and ``gpt`` or ``user`` and ``assistant``. Tools are in the system turn or in a column
    ``tools``.
    """
    return read_chat(row, where, "conversations")


def write_hermes(conversation: Conversation) -> dict[str, Any]:
    """Writes the tools into the system turn. A text and the calls after it become one assistant turn, and consecutive
    results become one turn."""
    turns: list[dict[str, str]] = []
    system = "\n".join(t.text for t in conversation.turns if t.role == "system")
    if conversation.tools:
        system = f"{system}\n<tools>\n{tools_text(conversation)}\n</tools>".lstrip("\n")
    if system:
        turns.append({"from": "system", "value": system})
    previous = ""
    for turn in conversation.all_turns:
        if turn.role == "system":
            continue
        role = {"tool_call": "assistant", "tool_response": "tool"}.get(turn.role, turn.role)
        tag = {"tool_call": "tool_call", "tool_response": "tool_response"}.get(turn.role)
        text = f"<{tag}>\n{turn.text}\n</{tag}>" if tag else turn.text
        joins = tag is not None and (turn.role == previous or (tag == "tool_call" and previous == "assistant"))
        if joins:
            turns[-1]["value"] += f"\n{text}"
        else:
            turns.append({"from": role, "value": text})
        previous = turn.role
    return id_column(conversation) | {"conversations": turns}


def read_tools_block(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The tools between ``<tools>`` and ``</tools>``: JSON or Python literals."""
    match = _TOOLS.match(text, begin)
    if not match:
        raise Refused(f"{field} <tools>", f"does not end with </tools>: {short(text[begin:])}")
    return _flat(parse_sequence(match[1], f"{field} <tools>")), match.end()


def read_call(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The call, or the list of calls, after ``<tool_call>``: JSON or Python literals."""
    return values_after(text, begin + len("<tool_call>"), "</tool_call>", f"{field} <tool_call>")


def read_result(text: str, begin: int, _: Sequence[Tool], __: str) -> tuple[list[str], int]:
    """The text between ``<tool_response>`` and ``</tool_response>``, or the end."""
    inner, closing, _after = text[begin + len("<tool_response>") :].partition("</tool_response>")
    return [inner.strip()], begin + len("<tool_response>") + len(inner) + len(closing)


def _flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


register_mark("tools", "<tools>", re.compile(r"<tools>(?=\s*[\[{])"), read_tools_block)
register_mark("calls", "<tool_call>", re.compile(r"<tool_call>(?!\s*<function=)"), read_call)
register_mark("results", "<tool_response>", re.compile("<tool_response>"), read_result)
about = Command(
    "Reads ShareGPT/Hermes conversations (human/gpt or user/assistant) and writes the SWIFT agent format.",
    "trm-fast data hermes chats.json --preview 2 --val-split 0.1 --out swift.json",
    writes="swift",
)
register(Format("hermes", ("conversations",), read_hermes, write_hermes, {"hermes": about}))
