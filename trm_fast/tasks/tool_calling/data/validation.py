"""What is wrong with a call's arguments by its tool's JSON schema; only declared arguments are allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool

if TYPE_CHECKING:
    from jsonschema import ValidationError

PLAIN = ("type", "enum", "required", "properties", "items")
"""All that is judged by where a schema as a whole is none: files hold patterns and types of many dialects."""
LONGEST = 40
Path = tuple[str | int, ...]


def problems(call: Call, tools: Sequence[Tool]) -> list[str]:
    """What keeps a call from being valid: a tool not offered, arguments missing, unknown, ill-typed or not allowed.

    Args:
        call: a tool's name and its arguments.
        tools: those on offer.

    Returns:
        A sentence for each problem, in the order of the call's parts, what is missing or unknown before what is inside.
        Of a part of the wrong type nothing else is said. None for a valid call.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return [f"the tool {call.name!r} is not offered"]
    found: list[str] = []
    closed: list[Path] = []
    arguments = dict(call.arguments)
    errors = sorted(_errors(arguments, tool.parameters), key=lambda error: _indices(error, arguments))
    # A list of missing names comes once for each of them.
    for (path, keyword), group in groupby(errors, lambda error: (tuple(error.absolute_path), error.validator)):
        if any(path[: len(done)] == done for done in closed):
            continue
        if keyword in ("type", "enum"):
            closed.append(path)
        found += _sentences(next(group), path)
    return found


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid."""
    return not _errors(value, schema)


def _indices(error: ValidationError, value: Any) -> list[int]:
    indices = []
    for step in error.absolute_path:
        indices.append(list(value).index(step) if isinstance(value, Mapping) else int(step))
        value = value[step]
    return indices


def _sentences(error: ValidationError, path: Path) -> list[str]:
    where = _written(path)
    dot = f"{where}." if where else ""
    part: Any = error.instance
    schema: Any = error.schema
    value, expected = f"{part!r:.{LONGEST}}", schema[error.validator]
    if error.validator == "type":
        kinds = [expected] if isinstance(expected, str) else expected
        return [f"{where or 'arguments'}: {value} is no {' or '.join(kinds)}"]
    if error.validator == "enum":
        return [f"{where}: {value} is none of {', '.join(map(str, expected))}"]
    if error.validator == "required":
        return [f"{dot}{name} is missing" for name in expected if name not in part]
    if error.validator == "additionalProperties":
        return [f"{dot}{name} is not a parameter" for name in part if name not in schema["properties"]]
    return [f"{where}: {error.message}"]


def _written(path: Path) -> str:
    """``a.b[0]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _errors(value: Any, schema: Mapping[str, Any]) -> list[ValidationError]:
    from jsonschema import Draft202012Validator

    try:
        return list(Draft202012Validator(_strict(schema)).iter_errors(value))
    except Exception:  # no schema: a type or a pattern of another dialect, whatever comes of it
        return list(Draft202012Validator(_strict(schema, PLAIN)).iter_errors(value))


def _strict(schema: Mapping[str, Any], keys: Sequence[str] = ()) -> dict[str, Any]:
    """The schema without parts that are none, or with some ``keys`` alone; objects have their properties only, and a
    default is always a choice."""
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
