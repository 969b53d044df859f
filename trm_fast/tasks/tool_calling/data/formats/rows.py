"""What rows of several formats have in common: objects, lists, roles and messages, each checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Refused, Turn, parse_json, text_of

ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "chatgpt": "assistant", "tool": "tool_response", "tool_response": "tool_response",
    "observation": "tool_response", "function_response": "tool_response", "function_call": "tool_call",
    "tool_call": "tool_call",
}  # fmt: skip
"""Our role for each name that files have for it."""


def as_object(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise Refused("row", f"must be an object, not {row!r:.60}")
    return row


def list_in(row: Mapping[str, Any], field: str) -> list[Any]:
    """The list under a field, also where it is written as JSON text; it must not be empty."""
    value = row.get(field)
    if isinstance(value, str):
        value = parse_json(value, field)
    if not isinstance(value, list):
        raise Refused(field, "is missing" if value is None else f"must be a list, not {value!r:.60}")
    if not value:
        raise Refused(field, "is empty: there is no turn")
    return value


def role_of(turn: Any, key: str, field: str) -> str:
    """Our role of a turn that names its own under ``key``."""
    if not isinstance(turn, Mapping):
        raise Refused(field, f"a turn is an object, not {turn!r:.60}")
    role = turn.get(key)
    if role not in ROLES:
        raise Refused(f"{field}.{key}", f"is {role!r}; known are {', '.join(ROLES)}")
    return ROLES[role]


def turn_of(message: Any, field: str) -> Turn:
    """From ``{"role", "content"}``."""
    role, content = role_of(message, "role", field), message.get("content")
    if role == "tool_call":
        value = parse_json(content, f"{field}.content") if isinstance(content, str) else content
        return Turn.calling(Call.of(value, f"{field}.content"))
    return Turn(role, text_of(content, f"{field}.content"))


def id_column(conversation: Conversation) -> dict[str, str]:
    """``{"id": ...}`` where the conversation has an id."""
    return {"id": conversation.id} if conversation.id else {}
