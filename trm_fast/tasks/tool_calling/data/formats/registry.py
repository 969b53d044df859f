"""The interface of a format of conversations, and the registry of all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.conversation import Conversation
from trm_fast.tasks.tool_calling.data.formats.rows import as_object
from trm_fast.tasks.tool_calling.data.refused import Refused

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
    ``variant_of`` names a format with the same columns and the same reader, if this one only differs in what it writes.
    """

    name: str
    columns: tuple[str, ...]
    read: Reader
    write: Callable[[Conversation], dict[str, Any]] | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)
    make_reader: Callable[[str], Reader] | None = None
    variant_of: str = ""

    def to_row(self, conversation: Conversation) -> dict[str, Any]:
        """Writes a conversation, and reads the row again to see that nothing was lost.

        Raises:
            Refused: the format cannot hold the conversation, or cannot be written at all.
        """
        if self.write is None:
            raise Refused("row", f"the format {self.name} cannot be written")
        row = self.write(conversation)
        try:
            again = self.read(row, conversation.where)
        except Refused as error:
            raise Refused(error.field, f"cannot be written in the format {self.name}: {error.reason}") from None
        for name, original, again_read in zip(("tools", "turns"), _content(conversation), _content(again), strict=True):
            if original != again_read:
                first = next(
                    (i for i, pair in enumerate(zip(original, again_read, strict=False)) if pair[0] != pair[1]), None
                )
                number = min(len(original), len(again_read)) if first is None else first
                what = f"{original[number]!r:.60}" if number < len(original) else "the end"
                raise Refused(name, f"the format {self.name} cannot hold {what} (number {number + 1} of the {name})")
        return row


_FORMATS: dict[str, Format] = {}


def register(new: Format) -> Format:
    """Adds a format and returns it.

    Raises:
        ValueError: another format has the same name or columns.
    """
    for other in _FORMATS.values():
        same_columns = set(new.columns) == set(other.columns) and not new.variant_of and not other.variant_of
        if new.name == other.name or same_columns:
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


def _content(conversation: Conversation) -> tuple[list[Any], list[Any]]:
    """The tools, and the turns without spaces at their ends; system turns are one text, and come first."""
    turns = conversation.all_turns
    system = "\n".join(turn.text.strip() for turn in turns if turn.role == "system")
    others = [(turn.role, turn.call or turn.text.strip()) for turn in turns if turn.role != "system"]
    return list(conversation.tools), [("system", system), *others]


def detect_format(row: Any) -> Format:
    """The format whose ``columns`` the row has. If there are several, the one with the most columns wins, then one
    that can also be written.

    Raises:
        Refused: the row has the columns of no format.
    """
    row_columns = as_object(row)
    own_readers = (one for one in _FORMATS.values() if not one.variant_of)
    by_priority = sorted(own_readers, key=lambda one: (-len(one.columns), one.write is None))
    for one in by_priority:
        if row_columns.keys() >= set(one.columns):
            return one
    shortest = sorted(by_priority, key=lambda one: len(one.columns))
    sets = [set(one.columns) for one in shortest]
    expected = [" with ".join(one.columns) for one in shortest if not any(s < set(one.columns) for s in sets)]
    choices = f"{', '.join(expected[:-1])} or {expected[-1]}"
    raise Refused("row", f"has none of {choices}, but {', '.join(map(str, row_columns)) or 'nothing'}")
