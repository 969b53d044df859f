"""The format ``swift`` of the SWIFT agent: tools as JSON text, and a message for each call. Seal-Tools uses it.

Chats of OpenAI and Anthropic have the same column and the same reader.
"""

from __future__ import annotations

from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import id_column, read_chat, tools_text


def read_swift(row: Any, where: str = "") -> Conversation:
    """Reads ``{"tools": JSON text, "messages": [{"role": ..., "content": ...}]}``."""
    return read_chat(row, where, "messages")


def write_swift(conversation: Conversation) -> dict[str, Any]:
    """Writes a conversation. If the next turn is known, it is the last message."""
    messages = [{"role": turn.role, "content": turn.text} for turn in conversation.all_turns]
    return id_column(conversation) | {"tools": tools_text(conversation), "messages": messages}


about = Command(
    "Reads the SWIFT agent format and writes ShareGPT/Hermes.",
    "trm-fast data swift swift.json --out hermes.json",
    writes="hermes",
)
register(Format("swift", ("messages",), read_swift, write_swift, {"swift": about}))
