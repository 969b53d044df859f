"""The format ``swift`` of the SWIFT agent: tools as JSON text, and a message for each call. xLAM and Seal-Tools use
it."""

from __future__ import annotations

import json
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, id_column, list_in, parse_turn


def read_swift(row: Any, where: str = "") -> Conversation:
    """Reads ``{"tools": JSON text, "messages": [{"role": ..., "content": ...}]}``."""
    row = as_object(row)
    turns = [parse_turn(m, f"messages[{i}]") for i, m in enumerate(list_in(row, "messages"))]
    return Conversation(read_tools(row.get("tools")), tuple(turns), where, str(row.get("id", "")))


def write_swift(conversation: Conversation) -> dict[str, Any]:
    """Writes a conversation. If the next turn is known, it is the last message."""
    tools = json.dumps([tool.to_json() for tool in conversation.tools], ensure_ascii=False)
    messages = [{"role": turn.role, "content": turn.text} for turn in conversation.all_turns]
    return id_column(conversation) | {"tools": tools, "messages": messages}


about_xlam = Command(
    'Reads xLAM rows in SWIFT JSON; parameters without "properties" become JSON schema.',
    "trm-fast data xlam xlam_swift_train.json.gz --preview 1",
    writes="swift",
)
about_swift = Command(
    "Reads the SWIFT agent format and writes ShareGPT/Hermes.",
    "trm-fast data swift swift.json --out hermes.json",
    writes="hermes",
)
register(Format("swift", ("messages",), read_swift, write_swift, {"xlam": about_xlam, "swift": about_swift}))
