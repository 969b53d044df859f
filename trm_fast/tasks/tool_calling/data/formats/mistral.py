"""The marks of Mistral's templates: ``[TOOL_CALLS]``, with JSON or with ``name[ARGS]{...}``, and tools between
``[AVAILABLE_TOOLS]`` and ``[/AVAILABLE_TOOLS]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.data.literals import decode_at, parse_sequence, skip_spaces
from trm_fast.tasks.tool_calling.data.marks import register_mark, values_after
from trm_fast.tasks.tool_calling.data.refused import Refused, short

_TOOLS = re.compile(r"\[AVAILABLE_TOOLS\](.*?)\[/AVAILABLE_TOOLS\]", re.DOTALL)
_CALL = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?(?:\[ARGS\])?\s*(?=\{)")


def read_tool_list(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The tools between ``[AVAILABLE_TOOLS]`` and ``[/AVAILABLE_TOOLS]``."""
    match = _TOOLS.match(text, begin)
    if not match:
        raise Refused(f"{field} [AVAILABLE_TOOLS]", f"does not end with [/AVAILABLE_TOOLS]: {short(text[begin:])}")
    values = parse_sequence(match[1], f"{field} [AVAILABLE_TOOLS]")
    tools = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return tools, match.end()


def read_calls(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The calls after ``[TOOL_CALLS]``."""
    field, position = f"{field} {_CALL}", begin + len(_CALL)
    if text[skip_spaces(text, position) :][:1] in ("[", "{"):
        return values_after(text, position, "[/TOOL_CALLS]", field)
    calls = []
    while match := _NAMED.match(text, position):
        try:
            arguments, position = decode_at(text, match.end())
        except ValueError as error:
            raise Refused(field, f"not valid JSON ({error}): {short(text[match.end() :])}") from None
        calls.append({"name": match[1], "arguments": arguments} | ({"id": match[2]} if match[2] else {}))
    if not calls:
        raise Refused(field, f"{short(text[position:])} is neither JSON nor name[ARGS]{{...}}")
    return calls, position


def read_result(text: str, begin: int, _: Sequence[Tool], __: str) -> tuple[list[str], int]:
    """The text between ``[TOOL_RESULTS]`` and ``[/TOOL_RESULTS]``, or the end."""
    inner, closing, _after = text[begin + len("[TOOL_RESULTS]") :].partition("[/TOOL_RESULTS]")
    return [inner.strip()], begin + len("[TOOL_RESULTS]") + len(inner) + len(closing)


register_mark("tools", "[AVAILABLE_TOOLS]", re.compile(r"\[AVAILABLE_TOOLS\]"), read_tool_list)
register_mark("calls", _CALL, re.compile(re.escape(_CALL)), read_calls)
register_mark("results", "[TOOL_RESULTS]", re.compile(r"\[TOOL_RESULTS\]"), read_result)
