"""Checks calls against the JSON schemas of their tools, with the library ``jsonschema``.

An object may have no other properties than those that its schema declares, unless the schema itself decides about
further ones (``additionalProperties``, ``patternProperties``). Formats such as ``date`` are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool
from trm_fast.tasks.tool_calling.data.references import DEFINITIONS, IN_PLACE, Lookup, declared, lookup_in, mapped

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

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

    Examples:
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
    try:
        errors = sorted(
            _errors(arguments, tool.parameters),
            key=lambda error: (_indices(error, arguments), error.validator != "required"),
        )
    except RecursionError:
        return ["the arguments are nested too deeply to be checked"]
    for error in errors:
        path = tuple(error.absolute_path)
        if any(path[: len(done)] == done for done in closed):
            continue
        if error.validator in ("type", "enum", "const", "anyOf", "oneOf"):
            closed.append(path)
        messages += _sentences(error, path)
    return list(dict.fromkeys(messages))


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid against a schema."""
    return next(iter(_errors(value, schema)), None) is None


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
    if not isinstance(schema, Mapping):  # the schema false, which no value fits
        return [f"{where or 'arguments'}: {part!r:.{MAX_SHOWN_CHARACTERS}} is not allowed"]
    value, expected = f"{part!r:.{MAX_SHOWN_CHARACTERS}}", schema[error.validator]
    if error.validator == "type":
        return [f"{where or 'arguments'}: {value} is not of type {' or '.join(_kinds(expected))}"]
    if error.validator in ("enum", "const"):
        choices = expected if error.validator == "enum" else [expected]
        return [f"{where}: {value} is not {'one of ' * (len(choices) > 1)}{', '.join(map(str, choices))}"]
    if error.validator == "required":
        return [f"{prefix}{name} is missing" for name in expected if name not in part]
    if error.validator == "additionalProperties" and expected is False and "patternProperties" not in schema:
        return [f"{prefix}{name} is not a parameter" for name in part if name not in schema.get("properties", {})]
    if error.validator in ("anyOf", "oneOf") and error.context:
        return _no_alternative(error, path)
    return [f"{where or 'arguments'}: {error.message:.200}"]


def _no_alternative(error: ValidationError, path: Path) -> list[str]:
    """Why a value fits no alternative: its type, if that is wrong in all of them, or the errors of the only alternative
    with the right type."""
    context = list(error.context or ())
    wrong_type = {e.relative_schema_path[0] for e in context if e.validator == "type" and not e.relative_path}
    others = [inner for inner in context if inner.relative_schema_path[0] not in wrong_type]
    where, value = _path_text(path) or "arguments", f"{error.instance!r:.{MAX_SHOWN_CHARACTERS}}"
    if not others:
        of_type = (inner for inner in context if inner.validator == "type" and not inner.relative_path)
        kinds = dict.fromkeys(kind for inner in of_type for kind in _kinds(inner.validator_value))
        return [f"{where}: {value} is not of type {' or '.join(kinds)}"]
    if len({inner.relative_schema_path[0] for inner in others}) > 1:
        return [f"{where}: {value} fits none of the {len(error.validator_value)} alternatives"]
    return [text for inner in others for text in _sentences(inner, (*path, *inner.relative_path))]


def _kinds(expected: Any) -> list[str]:
    return [expected] if isinstance(expected, str) else list(expected)


def _path_text(path: Path) -> str:
    """A path as ``a.b[0]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _errors(value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    errors: Iterator[ValidationError] = _validator(json.dumps(schema)).iter_errors(value)
    return errors


@lru_cache(maxsize=4096)
def _validator(text: str) -> Draft202012Validator:
    """The validator of a schema, from its JSON text. Keywords that are malformed, such as a pattern of another dialect,
    are not checked."""
    from jsonschema import Draft202012Validator

    schema = json.loads(text)
    checker = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for error in sorted(checker.iter_errors(schema), key=lambda error: len(error.absolute_path), reverse=True):
        _remove(schema, list(error.absolute_path))
    return Draft202012Validator(_strict(schema, lookup_in(schema)))


def _remove(schema: Any, path: list[str | int]) -> None:
    """Removes the keyword at or above a path."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    for step in path[:-1]:
        schema = schema[step]
    if path:
        schema.pop(path[-1], None)


def _strict(schema: Mapping[str, Any], lookup: Lookup, *, in_place: bool = False) -> dict[str, Any]:
    """The schema in which objects allow no further properties, and a default is always a valid choice.

    ``in_place`` schemas apply to the same value as the schema around them, which closes the object.
    """

    def inner(key: str, _: str, part: Any) -> Any:
        if key in ("not", "if") or not isinstance(part, Mapping):  # a stricter condition would accept more
            return part
        return _strict(part, lookup, in_place=key in IN_PLACE or key in DEFINITIONS)

    strict = mapped(schema, inner)
    strict.pop("$schema", None)
    choices = schema.get("enum")
    if isinstance(choices, list) and "default" in schema and schema["default"] not in choices:
        strict["enum"] = [*choices, schema["default"]]
    declaration = declared(schema, lookup)
    if declaration.declares and not declaration.is_open and not in_place:
        strict["properties"] = {name: {} for name in declaration.properties} | strict.get("properties", {})
        strict["additionalProperties"] = False
    first = ("type", "enum", "required", "additionalProperties")
    return {key: strict[key] for key in (*first, *strict) if key in strict}
