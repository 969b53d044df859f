"""The error of a row that is not a conversation, and the check that every field of an object is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

EMPTY: tuple[Any, ...] = (None, "", [], {})
"""The values of a field that says nothing."""


class Refused(ValueError):
    """A row is not a conversation: ``field`` names the part of the row, ``reason`` says what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


def account_for(value: Mapping[str, Any], fields: Collection[str], field: str, accepted: str = "") -> None:
    """Checks that an object has known fields only. Unknown fields without a value are ignored: Arrow files add them.

    Args:
        value: the object.
        fields: the names of the fields that the reader understands.
        field: what error messages call the object; "" for a row.
        accepted: the fields to name in the message, if ``fields`` has more.

    Raises:
        Refused: a field is not known.
    """
    for name, part in value.items():
        if name not in fields and part not in EMPTY:
            where = f"{field}.{name}" if field else str(name)
            raise Refused(where, f"this field is not known; accepted are {accepted or ', '.join(fields)}")


def short(value: Any) -> str:
    """A value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
