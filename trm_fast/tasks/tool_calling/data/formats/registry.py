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

    ``key`` is the column that only this format's rows have. ``read`` and ``write`` turn a row into a conversation and
    back; ``write`` is None if the format can only be read. ``commands`` are the commands of ``trm-fast data`` by name.
    ``reader_of`` makes the reader for a file, for formats whose rows need data from beside the file.
    """

    name: str
    key: str
    read: Reader
    write: Callable[[Conversation], dict[str, Any]] | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)
    reader_of: Callable[[str], Reader] | None = None


_FORMATS: dict[str, Format] = {}


def register(new: Format) -> Format:
    """Adds a format and returns it.

    Raises:
        ValueError: another format has the same name or key.
    """
    for other in _FORMATS.values():
        if new.name == other.name or new.key == other.key:
            raise ValueError(f"format {new.name} (key {new.key}) is already known as {other.name}")
    _FORMATS[new.name] = new
    return new


def formats() -> tuple[Format, ...]:
    """All registered formats."""
    return tuple(_FORMATS.values())


def get_format(name: str) -> Format:
    """The format with a name; UserError if there is none."""
    if name not in _FORMATS:
        raise UserError(f"unknown format {name!r}; known: {', '.join(_FORMATS)}", wrong_use=True)
    return _FORMATS[name]


def format_of(row: Any) -> Format:
    """The format whose ``key`` is a column of the row. Formats that can only be read are tried last.

    Raises:
        Refused: no format has such a column.
    """
    columns = as_object(row)
    by_use = sorted(_FORMATS.values(), key=lambda one: one.write is None)
    for one in by_use:
        if one.key in columns:
            return one
    keys = [one.key for one in by_use]
    expected = f"{', '.join(keys[:-1])} or {keys[-1]}"
    raise Refused("row", f"has none of {expected}, but {', '.join(map(str, columns)) or 'nothing'}")
