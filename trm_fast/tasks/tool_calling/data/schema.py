"""Converts the parameters of tools from the dialects in use to JSON schema (draft 2020-12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trm_fast.tasks.tool_calling.data.references import (
    ANNOTATIONS,
    LISTS,
    MAPS,
    SINGLE,
    Inliner,
    declared,
    has_references,
    lookup_in,
    mapped,
    or_null,
)

_TYPES = {
    "str": "string", "string": "string", "text": "string", "int": "integer", "integer": "integer", "long": "integer",
    "float": "number", "double": "number", "number": "number", "bool": "boolean", "boolean": "boolean",
    "list": "array", "array": "array", "tuple": "array", "set": "array", "dict": "object", "object": "object",
    "hashmap": "object", "null": "null", "none": "null",
}  # fmt: skip
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(MAPS, (Mapping, "an object")),
    **dict.fromkeys((*LISTS, "required", "enum"), (list, "a list")),
    **dict.fromkeys(SINGLE, (Mapping | bool, "a schema")),
}
"""The class that the value of a keyword must have, and what messages call it."""
_BOUNDS = (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum"))


def normalized_parameters(value: Any) -> dict[str, Any]:
    """The parameters of a tool as a JSON schema of type object with ``properties`` and ``required``.

    All other keywords stay as they are: definitions and references, alternatives, bounds, ``additionalProperties``.
    What references and alternatives at the top declare is also listed under ``properties``. The result is its own
    normal form.

    Args:
        value: JSON schema, also of earlier drafts, with OpenAPI's ``nullable``, with BFCL's ``"type": "dict"`` and with
            Python's type names (``List[int]``, ``str, optional``); or xLAM's map from names to schemas, without
            ``properties``, in which parameters without a default and without ``optional`` are required. None and an
            empty value mean no parameters.

    Raises:
        ValueError: ``value`` is none of these, or a reference leads nowhere or to itself.
    """
    if value is None or value == "" or value == []:
        value = {}
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {value!r:.60}")
    if not _is_schema(value):
        required = [name for name, part in value.items() if isinstance(part, Mapping) and _required(part)]
        value = {"properties": value, "required": required}
    try:
        return _of_object(_schema("", {**value, "properties": value.get("properties") or {}}))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _is_schema(value: Mapping[str, Any]) -> bool:
    """Whether ``value`` is a schema; otherwise it is a map from names to schemas.

    In a map, a parameter may have the name of a keyword: its value is a schema, which the keyword does not have.
    """
    combined = any(isinstance(value.get(key), list) for key in LISTS)
    if combined or isinstance(value.get("type"), str) or isinstance(value.get("$ref"), str):
        return True
    if "properties" not in value or isinstance(value.get("type"), Mapping):
        return False
    properties = value["properties"]
    is_parameter = isinstance(properties, Mapping) and isinstance(properties.get("type"), str)
    return not is_parameter or isinstance(value.get("required"), list)


def _required(schema: Mapping[str, Any]) -> bool:
    if isinstance(schema.get("required"), bool):
        return bool(schema["required"])
    return "default" not in schema and "optional" not in str(schema.get("type", "")).lower()


def _of_object(schema: dict[str, Any]) -> dict[str, Any]:
    """The normal form of a tool's parameters, from their schema."""
    kinds = schema.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise ValueError(f"type is {kinds!r:.60}; the parameters of a tool are an object")
    rest = {key: value for key, value in schema.items() if key not in ("type", "properties", "required")}
    properties = schema["properties"]
    schema = {"type": "object", "properties": properties, "required": schema.get("required") or [], **rest}
    if has_references(schema):
        Inliner(schema)(schema)  # raises the errors of references
    declaration = declared(schema, lookup_in(schema))
    for name, parts in declaration.properties.items():
        properties.setdefault(name, parts[0] if len(parts) == 1 else {"anyOf": parts})
    schema["required"] = [name for name in declaration.required if name in properties or declaration.is_open]
    return schema


def _schema(name: str, schema: Any) -> Any:
    """The schema of a value in draft 2020-12; ``name`` is what error messages call it."""
    if isinstance(schema, str):  # only a description, or only a type
        schema = {"type": schema} if schema.lower() in _TYPES else {"description": schema}
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise ValueError(f"{name} must be an object, not {schema!r:.60}")
    normalized = {key: value for key, value in schema.items() if key != "type"}
    if (kind := schema.get("type")) is not None:
        if not isinstance(kind, str | list):
            raise ValueError(f"{_path(name, 'type')} must be the name of a type, not {kind!r:.60}")
        normalized = _typed(kind) | normalized
    _replace_old_keywords(normalized)
    _check_keywords(name, normalized)
    normalized = mapped(normalized, lambda _, label, part: _schema(_path(name, label), part))
    return or_null(normalized) if schema.get("nullable") is True else normalized


def _path(name: str, label: str) -> str:
    return f"{name}.{label}" if name else label


def _replace_old_keywords(schema: dict[str, Any]) -> None:
    """Replaces keywords of earlier drafts and of OpenAPI by those of draft 2020-12."""
    for exclusive, bound in _BOUNDS:
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    dependencies = schema.get("dependencies")
    if isinstance(dependencies, Mapping):
        del schema["dependencies"]
        for key, kind in (("dependentRequired", list), ("dependentSchemas", Mapping)):
            if parts := {name: part for name, part in dependencies.items() if isinstance(part, kind)}:
                schema[key] = parts
    if isinstance(schema.get("nullable"), bool):
        del schema["nullable"]
    if isinstance(schema.get("required"), bool):  # a flag of the property, which belongs into the object's list
        del schema["required"]
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        flags = (
            name for name, part in properties.items() if isinstance(part, Mapping) and part.get("required") is True
        )
        required = schema.get("required") or []
        if (flagged := list(flags)) and isinstance(required, list):
            schema["required"] = list(dict.fromkeys([*required, *flagged]))


def _check_keywords(name: str, schema: dict[str, Any]) -> None:
    """Raises a ValueError for a malformed keyword that has schemas, names or choices. Removes those that are null."""
    for key in [key for key, value in schema.items() if value is None and key in _KINDS]:
        del schema[key]
    if isinstance(schema.get("items"), str | bool):
        schema["items"] = _schema(_path(name, "items"), schema["items"])
    for key, value in schema.items():
        if key in _KINDS and not isinstance(value, _KINDS[key][0]):
            raise ValueError(f"{_path(name, key)} must be {_KINDS[key][1]}, not {value!r:.60}")
    if not all(isinstance(required, str) for required in schema.get("required", [])):
        raise ValueError(f"{_path(name, 'required')} must be a list of names, not {schema['required']!r:.60}")
    if schema.get("type") == "object" and not schema.get("properties"):
        keywords = (*MAPS, *LISTS, *SINGLE, *ANNOTATIONS)
        outside = (key for key, part in schema.items() if key not in keywords and isinstance(part, Mapping))
        if parameters := [key for key in outside if isinstance(schema[key].get("type"), str)]:
            raise ValueError(f"{_path(name, parameters[0])} is a parameter outside of properties")


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
