"""What is wrong with a call's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool

_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": Mapping,
    "null": type(None),
}  # fmt: skip


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
