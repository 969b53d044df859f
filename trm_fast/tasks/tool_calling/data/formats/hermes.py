"""The format ``hermes``: ShareGPT turns whose text has tools, calls and results between tags."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn, parse_json, parse_text, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, id_column, list_in, parse_role

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|$)", re.DOTALL)


def read_hermes(row: Any, where: str = "") -> Conversation:
    """Reads ``{"conversations": [{"from": ..., "value": ...}]}``.

    Roles are ``human`` and ``gpt`` or ``user`` and ``assistant``. Tools are in the system turn or in a column
    ``tools``.
    """
    row = as_object(row)
    tools = read_tools(row.get("tools"))
    turns: list[Turn] = []
    for i, item in enumerate(list_in(row, "conversations")):
        field = f"conversations[{i}]"
        role, text = parse_role(item, "from", field), parse_text(item.get("value"), f"{field}.value")
        if role == "system" and not tools and (blocks := _blocks(_TOOLS, text)):
            tools = read_tools(_loads(blocks[-1], f"{field}.value <tools>"), f"{field}.value <tools>")
            text = _TOOLS.sub("", text).strip()
            if not text:
                continue
        if role == "assistant":
            turns += _assistant(text, field)
        elif role == "tool_response":
            turns += [Turn(role, part) for part in _blocks(_RESPONSE, text) or [text]]
        elif role == "tool_call":
            turns.append(Turn.of_call(Call.of(_loads(text, field), field)))
        else:
            turns.append(Turn(role, text))
    return Conversation(tools, tuple(turns), where, str(row.get("id", row.get("source", ""))))


def write_hermes(conversation: Conversation) -> dict[str, Any]:
    """Writes the tools into the system turn. A text and the calls after it become one assistant turn, and consecutive
    results become one turn."""
    turns: list[dict[str, str]] = []
    system = "\n".join(t.text for t in conversation.turns if t.role == "system")
    if conversation.tools:
        offered = json.dumps([tool.to_json() for tool in conversation.tools], ensure_ascii=False)
        system = f"{system}\n<tools>\n{offered}\n</tools>".lstrip("\n")
    if system:
        turns.append({"from": "system", "value": system})
    previous = ""
    for turn in conversation.turns:
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


def _assistant(text: str, field: str) -> list[Turn]:
    """The turns of an assistant's text: the text outside the tags, if there is any, and each call."""
    calls = [Call.of(_loads(part, f"{field}.value <tool_call>"), field) for part in _blocks(_CALL, text)]
    rest = _CALL.sub("", text).strip() if calls else text
    return [*([Turn("assistant", rest)] if rest else []), *(Turn.of_call(call) for call in calls)]


def _blocks(pattern: re.Pattern[str], text: str) -> list[str]:
    return [match.group(1).strip() for match in pattern.finditer(text)]


def _loads(text: str, field: str) -> Any:
    """The value of JSON text, or of the Python literals that some Hermes rows have."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return parse_json(text, field)


about = Command(
    "Reads ShareGPT/Hermes conversations (human/gpt or user/assistant) and writes the SWIFT agent format.",
    "trm-fast data hermes chats.json --preview 2 --val-split 0.1 --out swift.json",
    writes="swift",
)
register(Format("hermes", ("conversations",), read_hermes, write_hermes, {"hermes": about}))
