"""Checks calls against the JSON schemas of their tools. Only declared arguments are allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool

if TYPE_CHECKING:
    from jsonschema import ValidationError

PLAIN = ("type", "enum", "required", "properties", "items")
"""The only keywords checked if a schema is not valid as a whole: files have patterns and types of many dialects."""
MAX_SHOWN_CHARACTERS = 40
"""The maximum number of characters of a value that a message shows."""
Path = tuple[str | int, ...]


def problems(call: Call, tools: Sequence[Tool]) -> list[str]:
    """Lists what is wrong with a call: a tool that is not offered, or arguments that are missing, unknown or invalid.

    Args:
        call: the call to check.
        tools: the offered tools.

    Returns:
        One message per problem, in the order of the call's arguments; an empty list for a valid call. Missing and
        unknown names come before problems inside the values. A value of a wrong type has one message.

    Example:
        >>> from trm_fast.tasks.tool_calling import Call, problems, read_tools
        >>> tools = read_tools('[{"name": "get_weather", "parameters": {"city": {"type": "string"}}}]')
        >>> problems(Call("get_weather", {"city": 5}), tools)
        ['city: 5 is not of type string']
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return [f"the tool {call.name!r} is not offered"]
    messages: list[str] = []
    closed: list[Path] = []
    arguments = dict(call.arguments)
    errors = sorted(_errors(arguments, tool.parameters), key=lambda error: _indices(error, arguments))
    # jsonschema reports a list of missing names once for each name.
    for (path, keyword), group in groupby(errors, lambda error: (tuple(error.absolute_path), error.validator)):
        if any(path[: len(done)] == done for done in closed):
            continue
        if keyword in ("type", "enum"):
            closed.append(path)
        messages += _sentences(next(group), path)
    return messages


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid against a schema."""
    return not _errors(value, schema)


def _indices(error: ValidationError, value: Any) -> list[int]:
    indices = []
    for step in error.absolute_path:
        indices.append(list(value).index(step) if isinstance(value, Mapping) else int(step))
        value = value[step]
    return indices


def _sentences(error: ValidationError, path: Path) -> list[str]:
    where = _path_text(path)
    prefix = f"{where}." if where else ""
    part: Any = error.instance
    schema: Any = error.schema
    value, expected = f"{part!r:.{MAX_SHOWN_CHARACTERS}}", schema[error.validator]
    if error.validator == "type":
        kinds = [expected] if isinstance(expected, str) else expected
        return [f"{where or 'arguments'}: {value} is not of type {' or '.join(kinds)}"]
    if error.validator == "enum":
        return [f"{where}: {value} is not one of {', '.join(map(str, expected))}"]
    if error.validator == "required":
        return [f"{prefix}{name} is missing" for name in expected if name not in part]
    if error.validator == "additionalProperties":
        return [f"{prefix}{name} is not a parameter" for name in part if name not in schema["properties"]]
    return [f"{where}: {error.message}"]


def _path_text(path: Path) -> str:
    """A path as ``a.b[0]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _errors(value: Any, schema: Mapping[str, Any]) -> list[ValidationError]:
    from jsonschema import Draft202012Validator

    try:
        return list(Draft202012Validator(_strict(schema)).iter_errors(value))
    except Exception:  # not a valid schema: a type or a pattern of another dialect
        return list(Draft202012Validator(_strict(schema, PLAIN)).iter_errors(value))


def _strict(schema: Mapping[str, Any], keys: Sequence[str] = ()) -> dict[str, Any]:
    """The schema without malformed keywords, or with ``keys`` only. Objects allow no further properties, and a default
    is always a valid choice."""
    strict = {key: value for key, value in schema.items() if not keys or key in keys}
    properties, choices = schema.get("properties"), schema.get("enum")
    for key, kind in (("enum", list), ("required", list), ("properties", Mapping), ("items", Mapping)):
        if not isinstance(schema.get(key), kind):
            strict.pop(key, None)
    if isinstance(choices, list) and "default" in schema and schema["default"] not in choices:
        strict["enum"] = [*choices, schema["default"]]
    if isinstance(properties, Mapping):
        strict["additionalProperties"] = False
        strict["properties"] = {name: _strict(part, keys) for name, part in properties.items()}
    if isinstance(schema.get("items"), Mapping):
        strict["items"] = _strict(schema["items"], keys)
    first = ("type", "enum", "required", "additionalProperties")
    return {key: strict[key] for key in (*first, *strict) if key in strict}
