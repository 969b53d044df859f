"""The format ``anthropic``: messages with parts ``tool_use`` and ``tool_result``, and tools with ``input_schema``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Turn
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import answered_calls, id_column, read_chat
from trm_fast.tasks.tool_calling.data.refused import Refused


def read_anthropic(row: Any, where: str = "") -> Conversation:
    """Reads ``{"system": ..., "tools": [...], "messages": [...]}`` of Anthropic's messages interface."""
    return read_chat(row, where, "messages")


def write_anthropic(conversation: Conversation) -> dict[str, Any]:
    """Writes a conversation. Consecutive calls, and the text before them, become one message.

    Raises:
        Refused: there is a system turn after the first turn, or some calls of a message have no result.
    """
    turns = conversation.all_turns
    system = {"system": turns[0].text} if turns and turns[0].role == "system" else {}
    turns = turns[bool(system) :]
    if any(turn.role == "system" for turn in turns):
        raise Refused("messages", "the format anthropic holds one system text, before all other turns")
    tools = [{"name": t.name, "description": t.description, "input_schema": t.parameters} for t in conversation.tools]
    return id_column(conversation) | system | {"tools": tools, "messages": list(_messages(turns))}


def _messages(turns: list[Turn]) -> Iterator[dict[str, Any]]:
    for part in answered_calls(turns):
        if isinstance(part, Turn):
            yield {"role": part.role, "content": part.text}
            continue
        text = [{"type": "text", "text": part.text}] if part.text else []
        calls = [
            {"type": "tool_use", "id": key, "name": call.name, "input": dict(call.arguments)}
            for key, call in part.calls.items()
        ]
        yield {"role": "assistant", "content": [*text, *calls]}
        results = [
            {"type": "tool_result", "tool_use_id": key, "content": result} for key, result in part.results.items()
        ]
        if results:
            yield {"role": "user", "content": results}


about = Command(
    "Reads Anthropic chats (tool_use, tool_result, input_schema) and writes the SWIFT agent format.",
    "trm-fast data anthropic chats.jsonl --out swift.json",
    writes="swift",
)
register(Format("anthropic", ("messages",), read_anthropic, write_anthropic, {"anthropic": about}, variant_of="swift"))
