"""The marks of Llama's and Qwen-Coder's templates: ``<|python_tag|>``, ``<function=f>``, and a text that is a call as
JSON alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.brackets import read_bracket_calls
from trm_fast.tasks.tool_calling.data.conversation import ARGUMENT_KEYS, CALL_NOTES, Tool
from trm_fast.tasks.tool_calling.data.literals import decode_at, parse_literal, skip_spaces
from trm_fast.tasks.tool_calling.data.marks import register_mark
from trm_fast.tasks.tool_calling.data.refused import Refused, short
from trm_fast.texts import DECODER

_PYTHON = "<|python_tag|>"
_BUILT_IN = re.compile(r"\s*(\w+)\.call\(")
_FUNCTION = re.compile(
    r"(?:<tool_call>\s*)?<function=([^<>]+)>(.*?)(?:</function>|$)(?:\s*</tool_call>)?(?:<\|e\w+_id\|>)?", re.DOTALL
)
_PARAMETER = re.compile(r"\s*<parameter=([^<>]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_JSON_CALL = re.compile(r"\s*(?:```(?:json)?\s*)?([\[{].*[\]}])(?:\s*```)?\s*", re.DOTALL)


def read_python_tag(text: str, begin: int, _: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The calls after ``<|python_tag|>``: JSON objects with ``;`` between them, or ``name.call(a=1)``."""
    field, position = f"{field} {_PYTHON}", begin + len(_PYTHON)
    if match := _BUILT_IN.match(text, position):
        calls, end = read_bracket_calls(text, match.start(1), [f"{match[1]}.call"], field)
        return [calls[0] | {"name": match[1]}], end
    values: list[Any] = []
    while text[(position := skip_spaces(text, position)) : position + 1] in ("{", "["):
        try:
            value, position = decode_at(text, position)
        except ValueError as error:
            raise Refused(field, f"not valid JSON ({error}): {short(text[position:])}") from None
        values += value if isinstance(value, list) else [value]
        position = skip_spaces(text, position)
        position += text[position : position + 1] == ";"
    if not values:
        raise Refused(field, f"{short(text[position:])} is neither a call as JSON nor name.call(a=1)")
    return values, position


def read_function(text: str, begin: int, tools: Sequence[Tool], field: str) -> tuple[list[Any], int]:
    """The call after ``<function=name>``: arguments as JSON, or each between
    ``<parameter=name>`` and ``</parameter>``."""
    match = _FUNCTION.match(text, begin)
    if not match:
        raise Refused(f"{field} <function=f>", f"is not complete: {short(text[begin:])}")
    name, body = match[1].strip(), match[2].strip()
    field = f"{field} <function={name}>"
    if "<parameter=" in body:
        arguments = _parameters(name, body, tools, field)
    else:
        arguments = parse_literal(body, field) if body else {}
    return [{"name": name, "arguments": arguments}], match.end()


def find_json(text: str, start: int, tools: Sequence[Tool]) -> int:
    """0 for a text that is nothing but a call as JSON, ``{"name": ..., "parameters": {...}}``, or a list of calls."""
    values = _json_values(text) if start == 0 else []
    return 0 if values and all(_is_call(value, tools) for value in values) else -1


def read_json(text: str, _: int, __: Sequence[Tool], ___: str) -> tuple[list[Any], int]:
    """The calls of such a text."""
    return _json_values(text), len(text)


def _json_values(text: str) -> list[Any]:
    """The items of a text that is a JSON list, or the one value that it is; [] if it is not JSON."""
    match = _JSON_CALL.fullmatch(text)
    try:
        value = DECODER.decode(match[1]) if match else []
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else [value]


def _is_call(value: Any, tools: Sequence[Tool]) -> bool:
    if not isinstance(value, Mapping):
        return False
    inner = value.get("function", value)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        return False
    if any(inner["name"] == tool.name for tool in tools):
        return True
    return any(key in inner for key in ARGUMENT_KEYS) and not inner.keys() - {"name", *ARGUMENT_KEYS, *CALL_NOTES}


def _parameters(name: str, body: str, tools: Sequence[Tool], field: str) -> dict[str, Any]:
    """The arguments between tags, which have no types of their own: those of the tool's schema count."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise Refused(field, "is not among the row's tools, so the types of its arguments are not known")
    arguments: dict[str, Any] = {}
    position = 0
    for match in _PARAMETER.finditer(body):
        schema = tool.arguments.get(match[1])
        if match.start() != position or schema is None or match[1] in arguments:
            raise Refused(f"{field}.{match[1]}", "is there twice, stands after other text, or is not in the schema")
        kind = schema.get("type")
        text = kind == "string" or (isinstance(kind, list) and "string" in kind)
        arguments[match[1]] = match[2] if text else parse_literal(match[2], f"{field}.{match[1]}")
        position = match.end()
    if position != len(body):
        raise Refused(field, f"has {short(body[position:])} after its arguments")
    return arguments


register_mark("calls", _PYTHON, re.compile(re.escape(_PYTHON)), read_python_tag)
register_mark("calls", "<function=f>", re.compile(r"(?:<tool_call>\s*)?<function="), read_function)
register_mark("calls", "JSON alone", find_json, read_json)
