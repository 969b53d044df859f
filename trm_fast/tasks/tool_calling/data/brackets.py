"""Calls in Python's notation: ``[f(a=1), g(b="x")]``, with names that Python does not allow, and JSON values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.literals import parse_literal, skip_spaces, string_at
from trm_fast.tasks.tool_calling.data.refused import Refused, short

_NAME = re.compile(r"[^\W\d][\w.\-/]*(?= ?\()")
_KEY = re.compile(r"\s*([^\s=(),\"'\[\]{}][^=(),\"'\[\]{}]*?)\s*=(?!=)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def is_call_list(text: str, names: Sequence[str]) -> bool:
    """Whether a whole text is a list of calls in brackets, or one call of an offered tool."""
    text = text.strip()
    name = _name_at(text, 1 if text.startswith("[") else 0, names)
    if not name or not text.endswith((")", "]")):
        return False
    if name in names:
        return True
    if not text.startswith("["):
        return False
    try:
        return read_bracket_calls(text, 0, names, "")[1] == len(text)
    except Refused:
        return False


def read_bracket_calls(text: str, position: int, names: Sequence[str], field: str) -> tuple[list[dict[str, Any]], int]:
    """The calls that start at a position, as ``{"name", "arguments"}``, and the position after them.

    Args:
        text: the text.
        position: that of a ``[``, or of the name of a single call.
        names: the names of the offered tools, which may have spaces.
        field: what error messages call the text.

    Raises:
        Refused: the text is not a list of calls with named arguments.
    """
    listed = text[position] == "["
    calls: list[dict[str, Any]] = []
    position = skip_spaces(text, position + listed)
    while True:
        name = _name_at(text, position, names)
        if name is None:
            raise Refused(field, f"{short(text[position:])} is not a call such as f(a=1)")
        position = text.index("(", position + len(name)) + 1
        arguments, position = _arguments(text, position, f"{field} {name}")
        calls.append({"name": name, "arguments": arguments})
        position = skip_spaces(text, position)
        if not listed:
            return calls, position
        if text[position : position + 1] == "]":
            return calls, position + 1
        if text[position : position + 1] not in (",", ";"):
            raise Refused(field, f"after the call of {name!r} comes {short(text[position:])}, not , or ]")
        position = skip_spaces(text, position + 1)


def _name_at(text: str, position: int, names: Sequence[str]) -> str | None:
    """The name of the call at a position: an offered tool, the longest first, or a name with a bracket after it."""
    position = skip_spaces(text, position)
    for name in sorted(names, key=len, reverse=True):
        if text.startswith(name, position) and text[position + len(name) :].lstrip(" ").startswith("("):
            return name
    match = _NAME.match(text, position)
    return match[0] if match else None


def _arguments(text: str, position: int, field: str) -> tuple[dict[str, Any], int]:
    """The arguments after an opening bracket, and the position after the closing one."""
    arguments: dict[str, Any] = {}
    while text[(position := skip_spaces(text, position)) : position + 1] != ")":
        match = _KEY.match(text, position)
        if not match:
            raise Refused(field, f"{short(text[position:])} is not an argument such as a=1: each needs its name")
        key = match[1].strip()
        if key in arguments:
            raise Refused(f"{field}.{key}", "this argument is there twice")
        end = _value_end(text, match.end(), f"{field}.{key}")
        arguments[key] = parse_literal(text[match.end() : end].strip(), f"{field}.{key}")
        position = end + (text[end] == ",")
    return arguments, position + 1


def _value_end(text: str, position: int, field: str) -> int:
    """The position of the ``,`` or ``)`` that ends a value."""
    begin = position
    expected: list[str] = []
    while position < len(text):
        char = text[position]
        if char in "\"'":
            position = string_at(text, position)
            if position < 0:
                break
            continue
        if not expected and char in ",)":
            return position
        if char in _CLOSING:
            expected.append(_CLOSING[char])
        elif expected and char == expected[-1]:
            expected.pop()
        position += 1
    raise Refused(field, f"the value {short(text[begin:])} does not end")
