"""Follows the references (``$ref``) of JSON schemas: what a schema declares, and a copy without references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]
Lookup = Callable[[Any], Schema]
"""Returns the schema that a ``$ref`` names; raises a ValueError if there is none."""

DEFINITIONS = ("$defs", "definitions")
MAPS = frozenset(("properties", "patternProperties", "dependentSchemas", *DEFINITIONS))
"""The keywords whose values are objects of schemas."""
LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
"""The keywords whose values are lists of schemas."""
SINGLE = frozenset((
    "items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains", "propertyNames", "not",
    "if", "then", "else",
))  # fmt: skip
"""The keywords whose values are schemas."""
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""The keywords whose schemas are applied to the same value as the schema that they belong to."""
ANNOTATIONS = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly")
MAX_PARTS = 20_000
"""The maximum number of schemas that the parameters of one tool may have after references are replaced."""


def mapped(schema: Schema, change: Callable[[str, str, Any], Any]) -> dict[str, Any]:
    """A copy in which ``change`` replaces each schema directly inside; it takes the keyword, the schema's name or place
    in the keyword's value, and the schema."""
    copy = dict(schema)
    for key, value in schema.items():
        if key in MAPS and isinstance(value, Mapping):
            copy[key] = {name: change(key, str(name), part) for name, part in value.items()}
        elif key in LISTS and isinstance(value, list):
            copy[key] = [change(key, f"{key}[{i}]", part) for i, part in enumerate(value)]
        elif key in SINGLE and isinstance(value, Mapping):
            copy[key] = change(key, key, value)
    return copy


def lookup_in(root: Schema) -> Lookup:
    """The lookup of references inside a schema. References to other documents are not followed."""
    resolver: Any = None

    def lookup(reference: Any) -> Schema:
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        nonlocal resolver
        if resolver is None:
            resolver = Registry().resolver_with_root(DRAFT202012.create_resource(root))
        try:
            target = resolver.lookup(reference).contents
        except (Unresolvable, ValueError, TypeError, KeyError, AttributeError):
            target = None
        if isinstance(target, bool):
            return {} if target else {"not": {}}
        if not isinstance(target, Mapping):
            raise ValueError(f"$ref {reference!r:.60} names no schema in the parameters of the tool")
        return target

    return lookup


@dataclass
class Declared:
    """What a schema, its references and its alternatives declare about an object.

    ``properties`` has the different schemas of each property, the schema's own first. ``required`` are the names that
    no alternative can leave out. ``declares`` says whether there is a keyword ``properties``, and ``is_open`` whether
    the schema itself decides about further properties, or has an alternative without declared properties.
    """

    properties: dict[str, list[Any]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    declares: bool = False
    is_open: bool = False


def declared(schema: Schema, lookup: Lookup, followed: frozenset[Any] = frozenset()) -> Declared:
    """Collects what a schema declares; ``followed`` are the references that led to it."""
    result = Declared()
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, Mapping):
        result.declares = True
        result.properties = {name: [part] for name, part in properties.items()}
    if isinstance(required, list):
        result.required = [name for name in required if isinstance(name, str)]
    result.is_open = any(
        key in schema for key in ("additionalProperties", "unevaluatedProperties", "patternProperties")
    )

    def add(part: Any, followed: frozenset[Any], *, alternative: bool) -> None:
        if not isinstance(part, Mapping):
            return
        inner = declared(part, lookup, followed)
        for name, schemas in inner.properties.items():
            collected = result.properties.setdefault(name, [])
            collected += [schema for schema in schemas if schema not in collected]
        result.declares |= inner.declares
        result.is_open |= inner.is_open
        if alternative:
            kinds = part.get("type")
            kinds = kinds if isinstance(kinds, list) else [kinds]
            result.is_open |= "object" in kinds and not inner.declares
        else:
            result.required += [name for name in inner.required if name not in result.required]

    if "$ref" in schema and schema["$ref"] not in followed:
        add(lookup(schema["$ref"]), followed | {schema["$ref"]}, alternative=False)
    for key in IN_PLACE:
        value = schema.get(key)
        if key == "not" or value is None:
            continue
        for part in value if isinstance(value, list) else value.values() if key == "dependentSchemas" else [value]:
            add(part, followed, alternative=key != "allOf")
    return result


def has_references(schema: Any) -> bool:
    """Whether there is a key ``$ref`` anywhere in a value."""
    if isinstance(schema, dict):
        return "$ref" in schema or any(
            has_references(part) for part in schema.values() if isinstance(part, dict | list)
        )
    return isinstance(schema, list) and any(map(has_references, schema))


class Inliner:
    """Replaces references by the schemas that they name, and merges alternatives where that loses nothing.

    A reference inside the schema that it names becomes that schema's type alone. The copies tell a model what a value
    looks like; calls are checked against the original.
    """

    def __init__(self, root: Schema) -> None:
        self.lookup, self.parts = lookup_in(root), 0

    def __call__(
        self, schema: Any, followed: tuple[Any, ...] = (), in_place: frozenset[Any] = frozenset()
    ) -> dict[str, Any]:
        """A copy of a schema without references.

        Args:
            schema: the schema.
            followed: the references that led to it.
            in_place: those among them that led to it for the same value.

        Raises:
            ValueError: a reference names no schema or leads to itself, or the copy is too large.
        """
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise ValueError(f"its $refs stand for more than {MAX_PARTS:,} schemas")
        if not isinstance(schema, Mapping):
            return {} if schema else {"not": {}}

        def inner(key: str, _: str, part: Any) -> Any:
            return self(part, followed, in_place if key in IN_PLACE else frozenset())

        copy = mapped({key: value for key, value in schema.items() if key not in DEFINITIONS}, inner)
        if "$ref" in copy:
            copy = _merged(self._target(copy.pop("$ref"), followed, in_place), copy)
        if isinstance(copy.get("allOf"), list):
            parts = copy.pop("allOf")
            for part in parts:
                copy = _merged(part, copy)
        for key in ("anyOf", "oneOf"):
            if isinstance(copy.get(key), list):
                copy = _with_alternatives(copy, key)
        return _typed(copy)

    def _target(self, reference: Any, followed: tuple[Any, ...], in_place: frozenset[Any]) -> dict[str, Any]:
        target = self.lookup(reference)
        if reference in in_place:
            raise ValueError(f"$ref {reference!r:.60} leads to itself")
        if reference in followed:
            return {"type": target["type"]} if "type" in target else {}
        return self(target, (*followed, reference), in_place | {reference})


def _merged(part: Schema, rest: Schema) -> dict[str, Any]:
    """A schema that requires both ``part`` and ``rest``; the annotations are those of ``rest``."""
    both = {key for key in part if key in rest and part[key] != rest[key] and key not in ANNOTATIONS}
    if not both:
        return {**part, **rest}
    if both <= {"properties", "required"} and not (part.keys() | rest.keys()) & {"additionalProperties"}:
        properties, more = part.get("properties") or {}, rest.get("properties") or {}
        shared = {name: _merged(properties[name], more[name]) for name in properties if name in more}
        required = list(dict.fromkeys([*(part.get("required") or []), *(rest.get("required") or [])]))
        return {**part, **rest, "properties": {**properties, **more, **shared}, "required": required}
    return {**rest, "allOf": [*(rest.get("allOf") or []), part]}


def _with_alternatives(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """A schema whose ``anyOf`` or ``oneOf`` is merged into it if only one alternative is not null, and else gives it
    the types of the alternatives."""
    parts = schema[key]
    others = [part for part in parts if part.get("type") != "null"]
    rest = {name: value for name, value in schema.items() if name != key}
    if len(others) == 1:
        part = others[0] if len(parts) == 1 else or_null(others[0])
        if not any(name in rest and rest[name] != part[name] for name in part if name not in ANNOTATIONS):
            return {**part, **rest}
    kinds = [kind for part in parts for kind in _kinds(part)]
    if "type" in schema or not all(_kinds(part) for part in parts) or not kinds:
        return schema
    names = list(dict.fromkeys(kinds))
    return {"type": names[0] if len(names) == 1 else names, **schema}


def or_null(schema: Schema) -> dict[str, Any]:
    """A schema that accepts null in addition to the values of ``schema``.

    Examples:
        >>> or_null({"type": "string", "enum": ["a"]})
        {'type': ['string', 'null'], 'enum': ['a', None]}
    """
    if any(key in schema for key in ("$ref", "allOf", "oneOf", "not", "if")):
        notes = {key: schema[key] for key in ANNOTATIONS if key in schema}
        return {"anyOf": [{key: schema[key] for key in schema if key not in notes}, {"type": "null"}], **notes}
    nullable = dict(schema)
    if kinds := _kinds(schema):
        nullable["type"] = [*kinds, *(["null"] if "null" not in kinds else [])]
    if "const" in nullable:
        nullable["enum"] = [nullable.pop("const")]
    if isinstance(nullable.get("enum"), list) and None not in nullable["enum"]:
        nullable["enum"] = [*nullable["enum"], None]
    if isinstance(nullable.get("anyOf"), list) and {"type": "null"} not in nullable["anyOf"]:
        nullable["anyOf"] = [*nullable["anyOf"], {"type": "null"}]
    return nullable


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else [kind for kind in kinds if isinstance(kind, str)]


def _typed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with a type and choices, if its constant or its choices have one type other than null."""
    if "const" in schema and "enum" not in schema:
        schema = {**schema, "enum": [schema["const"]]}
    choices = schema.get("enum")
    if "type" in schema or not isinstance(choices, list):
        return schema
    kinds = {type(choice) for choice in choices if choice is not None}
    names = {bool: "boolean", int: "integer", float: "number"}
    name = names.get(kinds.pop()) if len(kinds) == 1 else "number" if kinds == {int, float} else None
    return schema if name is None else {"type": name, **schema}
