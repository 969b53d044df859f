"""Checks that several formats share: objects, lists, roles and messages. Errors name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Refused, Turn, parse_json, parse_text

ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "chatgpt": "assistant", "tool": "tool_response", "tool_response": "tool_response",
    "observation": "tool_response", "function_response": "tool_response", "function_call": "tool_call",
    "tool_call": "tool_call",
}  # fmt: skip
"""The role of a turn for each name that files use."""


def as_object(row: Any) -> Mapping[str, Any]:
    """Returns the row. Raises ``Refused`` if it is not an object."""
    if not isinstance(row, Mapping):
        raise Refused("row", f"must be an object, not {row!r:.60}")
    return row


def list_in(row: Mapping[str, Any], field: str) -> list[Any]:
    """The list in a field, which may be JSON text. Raises ``Refused`` if it is missing, empty or not a list."""
    value = row.get(field)
    if isinstance(value, str):
        value = parse_json(value, field)
    if not isinstance(value, list):
        raise Refused(field, "is missing" if value is None else f"must be a list, not {value!r:.60}")
    if not value:
        raise Refused(field, "is empty: a conversation needs a turn")
    return value


def parse_role(turn: Any, key: str, field: str) -> str:
    """The role of a turn, from its name under ``key``. Raises ``Refused`` if the name is unknown."""
    if not isinstance(turn, Mapping):
        raise Refused(field, f"a turn is an object, not {turn!r:.60}")
    role = turn.get(key)
    if role not in ROLES:
        raise Refused(f"{field}.{key}", f"is {role!r}; the known roles are {', '.join(ROLES)}")
    return ROLES[role]


def parse_turn(message: Any, field: str) -> Turn:
    """A turn from ``{"role": ..., "content": ...}``."""
    role, content = parse_role(message, "role", field), message.get("content")
    if role == "tool_call":
        value = parse_json(content, f"{field}.content") if isinstance(content, str) else content
        return Turn.of_call(Call.of(value, f"{field}.content"))
    return Turn(role, parse_text(content, f"{field}.content"))


def id_column(conversation: Conversation) -> dict[str, str]:
    """``{"id": ...}``, or {} for a conversation without an id."""
    return {"id": conversation.id} if conversation.id else {}
