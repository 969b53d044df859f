"""What a format of conversations is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Refused
from trm_fast.tasks.tool_calling.data.formats.rows import as_object

Reader = Callable[[Any, str], Conversation]
"""From a row and where it stands; ``Refused`` where the row is no conversation."""


@dataclass(frozen=True)
class Command:
    """``trm-fast data NAME``: its help, and the format that it writes unless told otherwise."""

    about: str
    example: str
    writes: str = ""


@dataclass(frozen=True)
class Format:
    """``key``: the column by which its rows are told from those of other formats. ``write``: None in a format that is
    only read. ``reader_of``: where rows need more than themselves, makes the reader for the file of that name."""

    name: str
    key: str
    read: Reader
    write: Callable[[Conversation], dict[str, Any]] | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)
    reader_of: Callable[[str], Reader] | None = None

    def reader(self, source: str) -> Reader:
        """What reads the rows of a file."""
        return self.read if self.reader_of is None else self.reader_of(source)


_FORMATS: dict[str, Format] = {}


def register(new: Format) -> Format:
    """Adds a format; its name and its key must be new."""
    for other in _FORMATS.values():
        if new.name == other.name or new.key == other.key:
            raise ValueError(f"format {new.name} (key {new.key}) is already known as {other.name}")
    _FORMATS[new.name] = new
    return new


def formats() -> tuple[Format, ...]:
    return tuple(_FORMATS.values())


def get_format(name: str) -> Format:
    """The format of a name; an unknown one is a UserError (wrong use)."""
    if name not in _FORMATS:
        raise UserError(f"unknown format {name!r}; known: {', '.join(_FORMATS)}", wrong_use=True)
    return _FORMATS[name]


def format_of(row: Any) -> Format:
    """The format that a row's columns tell, a benchmark's last; Refused where they tell none."""
    columns = as_object(row)
    by_use = sorted(_FORMATS.values(), key=lambda one: one.write is None)
    for one in by_use:
        if one.key in columns:
            return one
    keys = [one.key for one in by_use]
    expected = f"{', '.join(keys[:-1])} or {keys[-1]}"
    raise Refused("row", f"has none of {expected}, but {', '.join(map(str, columns)) or 'nothing'}")
