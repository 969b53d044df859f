"""The format ``openai``: messages with ``tool_calls``, and results that name their call by ``tool_call_id``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Turn
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import answered_calls, id_column, read_chat


def read_openai(row: Any, where: str = "") -> Conversation:
    """Reads ``{"tools": [...], "messages": [...]}`` of OpenAI's chat interface, also with ``functions`` and
    ``function_call`` of 2023."""
    return read_chat(row, where, "messages")


def write_openai(conversation: Conversation) -> dict[str, Any]:
    """Writes a conversation. Consecutive calls, and the text before them, become one message.

    Raises:
        Refused: some calls of a message have results and others have none.
    """
    tools = [tool.to_json() for tool in conversation.tools]
    return id_column(conversation) | {"tools": tools, "messages": list(_messages(conversation))}


def _messages(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for part in answered_calls(conversation.all_turns):
        if isinstance(part, Turn):
            yield {"role": part.role, "content": part.text}
            continue
        calls = [
            {"id": key, "type": "function", "function": {"name": call.name, "arguments": _dumps(call.arguments)}}
            for key, call in part.calls.items()
        ]
        yield {"role": "assistant", "content": part.text, "tool_calls": calls}
        for key, result in part.results.items():
            yield {"role": "tool", "tool_call_id": key, "content": result}


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


about = Command(
    "Reads OpenAI chats (tools, tool_calls, results by tool_call_id) and writes the SWIFT agent format.",
    "trm-fast data openai chats.jsonl --refused refused.jsonl --out swift.json",
    writes="swift",
)
register(Format("openai", ("messages",), read_openai, write_openai, {"openai": about}, variant_of="swift"))
