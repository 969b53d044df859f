"""Parameters of tools as JSON schema, from the dialects in use, and what is wrong with a call's arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm_fast.tasks.tool_calling.conversation import Call, Tool

_TYPES = {
    "str": "string", "string": "string", "text": "string", "int": "integer", "integer": "integer", "long": "integer",
    "float": "number", "double": "number", "number": "number", "bool": "boolean", "boolean": "boolean",
    "list": "array", "array": "array", "tuple": "array", "set": "array", "dict": "object", "object": "object",
    "hashmap": "object", "null": "null", "none": "null",
}  # fmt: skip
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": Mapping,
    "null": type(None),
}  # fmt: skip


def normalised_parameters(value: Any) -> dict[str, Any]:
    """A tool's parameters as a schema of type object with ``properties`` and ``required``.

    Takes JSON schema, BFCL's ``"type": "dict"``, Python type names (``List[int]``, ``str, optional``), and xLAM's map
    of parameter names without ``properties``, where those without default and without ``optional`` are required. None
    or an empty map is a tool without parameters. ValueError where it is none of these.
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
    made = {name: _property(name, schema) for name, schema in properties.items()}
    return {"type": "object", "properties": made, "required": [name for name in required if name in made]}


def _required(schema: Mapping[str, Any]) -> bool:
    return "default" not in schema and "optional" not in str(schema.get("type", "")).lower()


def _property(name: str, schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):  # a description alone, or a type alone
        schema = {"type": schema} if schema.lower() in _TYPES else {"description": schema}
    if not isinstance(schema, Mapping):
        raise ValueError(f"{name} must be an object, not {schema!r:.60}")
    made = {key: value for key, value in schema.items() if key != "type"}
    if (kind := schema.get("type")) is not None:
        made = _typed(kind) | made
    if isinstance(schema.get("items"), Mapping):
        made["items"] = _property(f"{name}.items", schema["items"])
    if isinstance(schema.get("properties"), Mapping):
        made["properties"] = {n: _property(f"{name}.{n}", p) for n, p in schema["properties"].items()}
    return made


def _typed(kind: Any) -> dict[str, Any]:
    """``type`` (and ``items``) of a type's name; nothing for one that says nothing, such as ``any``."""
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


def problems(call: Call, tools: Sequence[Tool]) -> list[str]:
    """What keeps a call from being valid: a tool not offered, arguments missing, unknown, ill-typed or not allowed."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return [f"the tool {call.name!r} is not offered"]
    return _faults(dict(call.arguments), tool.parameters, "")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid."""
    return not _faults(value, schema, "")


def _faults(value: Any, schema: Mapping[str, Any], path: str) -> list[str]:
    kinds = schema.get("type")
    allowed = [kinds] if isinstance(kinds, str) else list(kinds or [])
    if allowed and not any(_is(value, kind) for kind in allowed):
        return [f"{path or 'arguments'}: {value!r:.40} is no {' or '.join(allowed)}"]
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices and value != schema.get("default"):
        return [f"{path}: {value!r:.40} is none of {', '.join(map(str, choices))}"]
    found = []
    if isinstance(value, Mapping) and isinstance(properties := schema.get("properties"), Mapping):
        dot = f"{path}." if path else ""
        found += [f"{dot}{name} is missing" for name in schema.get("required") or [] if name not in value]
        found += [f"{dot}{name} is not a parameter" for name in value if name not in properties]
        for name, part in value.items():
            found += _faults(part, properties[name], f"{dot}{name}") if name in properties else []
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        for i, part in enumerate(value):
            found += _faults(part, items, f"{path}[{i}]")
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _PYTHON[kind]) if kind in _PYTHON else True
