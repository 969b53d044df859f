"""Values in text: JSON, Python literals, JSON objects in a row, and Glaive's arguments between apostrophes."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from trm_fast.tasks.tool_calling.data.refused import Refused, short
from trm_fast.texts import DECODER, json_object

_SPACES = re.compile(r"\s*")
_GLAIVE = re.compile(r"\s*\{\s*\"name\"\s*:\s*(\"[^\"]*\")\s*,\s*\"arguments\"\s*:\s*'(.*)'\s*\}\s*", re.DOTALL)
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
_JSON_NAMES = {"true": "True", "false": "False", "null": "None"}


def parse_json(text: str, field: str) -> Any:
    """The value of a JSON text. Raises ``Refused``, with ``field``, if it is malformed or an object has a key twice."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Refused(field, f"not valid JSON ({error}): {short(text)}") from None


def parse_literal(text: str, field: str) -> Any:
    """The value of JSON text, of a Python literal, or of a call with its arguments between apostrophes, as in Glaive.

    Raises:
        Refused: ``text`` is none of these, a literal that JSON cannot hold, or has an object with a key twice.
    """
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    if match := _GLAIVE.fullmatch(text):
        arguments = match[2]
        for inner in (arguments, arguments.replace("\\'", "'")):
            try:
                return {"name": DECODER.decode(match[1]), "arguments": DECODER.decode(inner)}
            except (ValueError, RecursionError):
                continue
    try:
        tree = ast.parse(_with_python_names(text).strip(), mode="eval")
        value = _plain(ast.literal_eval(tree))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return parse_json(text, field)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):  # all keys are texts here
            try:
                json_object([(ast.literal_eval(key), None) for key in node.keys if key])
            except ValueError as error:
                raise Refused(field, f"{error}: {short(text)}") from None
    return value


def parse_sequence(text: str, field: str) -> list[Any]:
    """The JSON values of a text, with nothing but spaces and commas between them; or a Python literal.

    Raises:
        Refused: there is anything else in the text.
    """
    values, position = [], 0
    while (position := skip_spaces(text, position)) < len(text):
        try:
            value, position = decode_at(text, position)
        except ValueError:
            return [parse_literal(text, field)]
        values.append(value)
        position = skip_spaces(text, position)
        position += text[position : position + 1] == ","
    return values


def decode_at(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that starts at a position, and the position after it. Raises a ValueError if there is none."""
    try:
        return DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def skip_spaces(text: str, position: int) -> int:
    """The position of the first character from ``position`` on that is not a space."""
    match = _SPACES.match(text, position)
    return match.end() if match else position


def string_at(text: str, position: int) -> int:
    """The position after the string in quotation marks that starts at a position; -1 if it does not end."""
    match = _STRING.match(text, position)
    return match.end() if match else -1


def _with_python_names(text: str) -> str:
    """The text with Python's names for true, false and null outside strings."""
    parts, position = [], 0
    for match in [*_STRING.finditer(text), None]:
        outside = text[position : match.start() if match else len(text)]
        parts.append(re.sub(r"\b(?:true|false|null)\b", lambda word: _JSON_NAMES[word[0]], outside))
        if match:
            parts.append(match[0])
            position = match.end()
    return "".join(parts)


def _plain(value: Any) -> Any:
    """A literal as JSON holds it: tuples become lists. Raises a TypeError if JSON cannot hold it."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is not text")
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"JSON has no {type(value).__name__}")
