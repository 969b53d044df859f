"""The interface of a format of conversations, and the registry of all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Refused
from trm_fast.tasks.tool_calling.data.formats.rows import as_object

Reader = Callable[[Any, str], Conversation]
"""Reads a conversation from a row and its file and line; raises ``Refused`` if the row is not a conversation."""


@dataclass(frozen=True)
class Command:
    """The command ``trm-fast data NAME`` of a format: its help, an example, and the format that it writes by
    default."""

    about: str
    example: str
    writes: str = ""


@dataclass(frozen=True)
class Format:
    """A format of conversations on disk.

    ``columns`` are the columns by which its rows are recognized. ``read`` and ``write`` turn a row into a conversation
    and back; ``write`` is None if the format can only be read. ``commands`` are the commands of ``trm-fast data`` by
    name. ``make_reader`` makes the reader for a file, for formats whose rows need data from another file next to it.
    """

    name: str
    columns: tuple[str, ...]
    read: Reader
    write: Callable[[Conversation], dict[str, Any]] | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)
    make_reader: Callable[[str], Reader] | None = None


_FORMATS: dict[str, Format] = {}


def register(new: Format) -> Format:
    """Adds a format and returns it.

    Raises:
        ValueError: another format has the same name or columns.
    """
    for other in _FORMATS.values():
        if new.name == other.name or set(new.columns) == set(other.columns):
            raise ValueError(f"format {new.name} ({', '.join(new.columns)}) is already known as {other.name}")
    _FORMATS[new.name] = new
    return new


def formats() -> tuple[Format, ...]:
    """All registered formats."""
    return tuple(_FORMATS.values())


def get_format(name: str) -> Format:
    """The format with a name. Raises a UserError if there is none."""
    if name not in _FORMATS:
        raise UserError(f"unknown format {name!r}; known: {', '.join(_FORMATS)}", usage_error=True)
    return _FORMATS[name]


def detect_format(row: Any) -> Format:
    """The format whose ``columns`` the row has. If there are several, the one with the most columns wins, then one
    that can also be written.

    Raises:
        Refused: the row has the columns of no format.
    """
    row_columns = as_object(row)
    by_priority = sorted(_FORMATS.values(), key=lambda one: (-len(one.columns), one.write is None))
    for one in by_priority:
        if row_columns.keys() >= set(one.columns):
            return one
    expected = [" with ".join(one.columns) for one in by_priority]
    choices = f"{', '.join(expected[:-1])} or {expected[-1]}"
    raise Refused("row", f"has none of {choices}, but {', '.join(map(str, row_columns)) or 'nothing'}")
