"""Converts the parameters of tools from the dialects in use to JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {
    "str": "string", "string": "string", "text": "string", "int": "integer", "integer": "integer", "long": "integer",
    "float": "number", "double": "number", "number": "number", "bool": "boolean", "boolean": "boolean",
    "list": "array", "array": "array", "tuple": "array", "set": "array", "dict": "object", "object": "object",
    "hashmap": "object", "null": "null", "none": "null",
}  # fmt: skip


def normalized_parameters(value: Any) -> dict[str, Any]:
    """The parameters of a tool as a JSON schema of type object with ``properties`` and ``required``.

    Args:
        value: JSON schema, also with BFCL's ``"type": "dict"`` and with Python's type names (``List[int]``,
            ``str, optional``); or xLAM's map from names to schemas, without ``properties``, in which parameters without
            a default and without ``optional`` are required. None and an empty value mean no parameters.

    Raises:
        ValueError: ``value`` is none of these.
    """
    if value is None or value == "" or value == []:
        value = {}
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {value!r:.60}")
    if "properties" in value or isinstance(value.get("type"), str):
        properties = value.get("properties") or {}
        required = value.get("required") or []
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError(f"required must be a list of names, not {required!r:.60}")
    else:
        properties = value
        required = [n for n, p in value.items() if isinstance(p, Mapping) and _required(p)]
    if not isinstance(properties, Mapping):
        raise ValueError(f"properties must be an object, not {properties!r:.60}")
    schemas = {name: _property(name, schema) for name, schema in properties.items()}
    return {"type": "object", "properties": schemas, "required": [name for name in required if name in schemas]}


def _required(schema: Mapping[str, Any]) -> bool:
    return "default" not in schema and "optional" not in str(schema.get("type", "")).lower()


def _property(name: str, schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):  # only a description, or only a type
        schema = {"type": schema} if schema.lower() in _TYPES else {"description": schema}
    if not isinstance(schema, Mapping):
        raise ValueError(f"{name} must be an object, not {schema!r:.60}")
    normalized = {key: value for key, value in schema.items() if key != "type"}
    if (kind := schema.get("type")) is not None:
        normalized = _typed(kind) | normalized
    if isinstance(schema.get("items"), Mapping):
        normalized["items"] = _property(f"{name}.items", schema["items"])
    if isinstance(schema.get("properties"), Mapping):
        normalized["properties"] = {n: _property(f"{name}.{n}", p) for n, p in schema["properties"].items()}
    return normalized


def _typed(kind: Any) -> dict[str, Any]:
    """``type`` and ``items`` from the name of a type; nothing for a name without a JSON type, such as ``any``."""
    if isinstance(kind, list):
        kinds = [_typed(k).get("type") for k in kind]
        return {"type": [k for k in kinds if isinstance(k, str)]} if all(kinds) else {}
    text = str(kind).split(", optional")[0].strip()
    outer, _, inner = text.partition("[")
    base = _TYPES.get(outer.strip().lower())
    if base is None:
        if re.match(r"(?i)(optional|union)\[", text):
            return _typed(text[len(outer) + 1 : -1]) if outer.lower() == "optional" else {}
        return {}
    if base == "array" and outer.lower() in ("list", "array", "set") and inner.endswith("]"):
        items = _typed(inner[:-1])
        return {"type": base, "items": items} if items else {"type": base}
    return {"type": base}
