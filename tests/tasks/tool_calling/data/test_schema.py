"""Parameters of tools in all dialects."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.data.schema import normalized_parameters


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("str, optional", {"type": "string"}),
        ("str, optional, default 'London'", {"type": "string"}),
        ("List[List[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("List[Union[int, float]]", {"type": "array"}),
        ("Tuple[float, float]", {"type": "array"}),
        ("Optional[bool]", {"type": "boolean"}),
        ("dict", {"type": "object"}),
        ("float", {"type": "number"}),
        ("any", {}),
        ("Callable[[float], float]", {}),
        (["string", "null"], {"type": ["string", "null"]}),
    ],
)
def test_types(kind: Any, schema: dict[str, Any]) -> None:
    assert normalized_parameters({"p": {"type": kind}} if kind != "any" else {"p": {"type": "any"}})["properties"] == {
        "p": schema
    }


@pytest.mark.parametrize("nothing", [None, {}, "", [], {"type": "object"}, {"type": "dict", "properties": {}}])
def test_no_parameters(nothing: Any) -> None:
    assert normalized_parameters(nothing) == {"type": "object", "properties": {}, "required": []}


def test_a_parameter_may_be_called_type() -> None:
    schema = normalized_parameters({"type": {"type": "str", "description": "kind"}, "id": {"type": "int"}})
    assert list(schema["properties"]) == ["type", "id"]


@pytest.mark.parametrize("wrong", [5, ["a"], {"p": 5}, {"type": "object", "properties": [1]}])
def test_malformed_schemas(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        normalized_parameters(wrong)


@pytest.mark.parametrize(
    ("schema", "normal"),
    [
        ({"type": "str", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"type": "int", "enum": [1, 2], "nullable": True}, {"type": ["integer", "null"], "enum": [1, 2, None]}),
        ({"const": 3, "nullable": True}, {"enum": [3, None]}),
        ({"anyOf": [{"type": "int"}], "nullable": True}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (
            {"allOf": [{"type": "int"}], "nullable": True, "description": "d"},
            {"anyOf": [{"allOf": [{"type": "integer"}]}, {"type": "null"}], "description": "d"},
        ),
        ({"type": "int", "minimum": 0, "exclusiveMinimum": True}, {"type": "integer", "exclusiveMinimum": 0}),
        ({"type": "int", "maximum": 9, "exclusiveMaximum": False}, {"type": "integer", "maximum": 9}),
        (
            {"type": "list", "items": [{"type": "int"}, {"type": "str"}], "additionalItems": False},
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"not": {}}},
        ),
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        ({"type": "array", "items": "str"}, {"type": "array", "items": {"type": "string"}}),
        ({"oneOf": [{"type": "dict"}, {"type": "float"}]}, {"oneOf": [{"type": "object"}, {"type": "number"}]}),
        (
            {"type": "dict", "additionalProperties": {"type": "int"}},
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ),
        (
            {"type": "object", "properties": {"a": {"type": "int", "required": True}, "b": {"required": False}}},
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]},
        ),
        ({"type": "object", "dependencies": {"a": ["b"]}}, {"type": "object", "dependentRequired": {"a": ["b"]}}),
    ],
)  # fmt: skip
def test_keywords_of_other_drafts_and_of_openapi(schema: dict[str, Any], normal: dict[str, Any]) -> None:
    parameters = normalized_parameters({"type": "object", "properties": {"p": schema}})
    assert parameters["properties"] == {"p": normal}
    assert normalized_parameters(parameters) == parameters


def test_a_map_of_parameters_may_say_which_are_required() -> None:
    value = {"a": {"type": "int", "required": True, "default": 3}, "b": {"type": "int", "required": False}}
    assert normalized_parameters(value) == {
        "type": "object", "properties": {"a": {"type": "integer", "default": 3}, "b": {"type": "integer"}},
        "required": ["a"],
    }  # fmt: skip


PERSON = {"type": "object", "properties": {"name": {"type": "str"}}, "required": ["name"]}


def test_definitions_and_other_keywords_are_kept() -> None:
    value = {
        "$defs": {"Person": PERSON}, "type": "object", "title": "T", "additionalProperties": True, "minProperties": 1,
        "properties": {"who": {"$ref": "#/$defs/Person", "description": "d"}}, "required": ["who", "why"],
    }  # fmt: skip
    parameters = normalized_parameters(value)
    person = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    assert parameters == {**value, "$defs": {"Person": person}}
    assert list(parameters)[:3] == ["type", "properties", "required"]
    assert Tool("f", "", parameters).arguments == {"who": {**person, "description": "d"}}


@pytest.mark.parametrize("key", ["$defs", "definitions"])
def test_what_references_and_alternatives_declare_is_listed_at_the_top(key: str) -> None:
    value = {"$ref": f"#/{key}/Person", key: {"Person": PERSON}}
    parameters = normalized_parameters(value)
    assert (parameters["properties"], parameters["required"]) == ({"name": {"type": "string"}}, ["name"])
    assert normalized_parameters(parameters) == parameters
    pet = {"type": "object", "properties": {"name": {"type": "int"}, "legs": {"type": "int"}}, "required": ["legs"]}
    parameters = normalized_parameters({"anyOf": [PERSON, pet]})
    name = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    assert (parameters["properties"], parameters["required"]) == ({"name": name, "legs": {"type": "integer"}}, [])
    assert normalized_parameters({"allOf": [PERSON, pet]})["required"] == ["name", "legs"]


@pytest.mark.parametrize(
    ("schema", "argument"),
    [
        (
            {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            {"type": ["number", "null"], "default": None},
        ),
        (
            {"oneOf": [{"enum": ["a"]}, {"type": "null"}], "description": "d"},
            {"enum": ["a", None], "description": "d"},
        ),
        ({"allOf": [{"$ref": "#/$defs/Age"}], "title": "t"}, {"type": "integer", "minimum": 0, "title": "t"}),
        (
            {"anyOf": [{"$ref": "#/$defs/Age"}, {"type": "string"}]},
            {"type": ["integer", "string"], "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
        ),
        ({"const": True}, {"type": "boolean", "const": True, "enum": [True]}),
        ({"enum": [1, 2, None]}, {"type": "integer", "enum": [1, 2, None]}),
        ({"$ref": "#/$defs/Age", "minimum": 5}, {"minimum": 5, "allOf": [{"type": "integer", "minimum": 0}]}),
        (
            {"$ref": "#/$defs/Node"},
            {
                "type": "object",
                "properties": {"value": {"type": "string"}, "next": {"type": "array", "items": {"type": "object"}}},
            },
        ),
    ],
)  # fmt: skip
def test_models_see_arguments_without_references(schema: dict[str, Any], argument: dict[str, Any]) -> None:
    next_node = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    node = {"type": "object", "properties": {"value": {"type": "string"}, "next": next_node}}
    definitions = {"Age": {"type": "integer", "minimum": 0}, "Node": node}
    parameters = normalized_parameters({"properties": {"p": schema}, "$defs": definitions})
    assert parameters["properties"] == {"p": schema}
    assert Tool("f", "", parameters).arguments == {"p": argument}


def test_references_that_cannot_be_followed() -> None:
    def refused(definitions: Any = None, **schema: Any) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            normalized_parameters({"properties": {"p": schema}, "$defs": definitions or {}})
        return str(caught.value)

    for reference in ("#/$defs/Missing", "https://example.com/person.json", "#/properties/q", "#/$defs/x/7", 5):
        assert refused(**{"$ref": reference}) == f"$ref {reference!r} names no schema in the parameters of the tool"
    loop = {"A": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/B"}]}, "B": {"$ref": "#/$defs/A"}}
    assert "leads to itself" in refused(loop, **{"$ref": "#/$defs/A"})
    doubling = {f"D{i}": {"properties": {k: {"$ref": f"#/$defs/D{i + 1}"} for k in "ab"}} for i in range(40)}
    assert "more than 20,000 schemas" in refused(doubling | {"D40": {}}, **{"$ref": "#/$defs/D0"})
    deep: Any = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "array", "items": deep}
    assert refused(**deep) == "is nested too deeply"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "city": "string"}, "type is 'string'; the parameters of a tool are an object"),
        ({"type": "object", "city": {"type": "string"}}, "city is a parameter outside of properties"),
        ({"p": {"type": "dict", "city": {"type": "str"}}}, "p.city is a parameter outside of properties"),
        ({"p": {"type": {"a": "b"}}}, "p.type must be the name of a type"),
        ({"p": {"enum": "a|b"}}, "p.enum must be a list"),
        ({"p": {"type": "list", "items": 5}}, "p.items must be a schema"),
        ({"p": {"anyOf": {"type": "int"}}}, "p.anyOf must be a list"),
        ({"p": {"anyOf": [5]}}, r"p\.anyOf\[0\] must be an object"),
        ({"p": {"properties": {"q": 5}}}, "p.q must be an object"),
        ({"p": {"required": "q"}}, "p.required must be a list"),
        ({"properties": {}, "required": [5]}, "required must be a list of names"),
    ],
)
def test_keywords_that_would_be_lost(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalized_parameters(schema)


@pytest.mark.parametrize("name", ["properties", "type", "required", "items", "enum", "anyOf", "$ref", "default"])
def test_a_parameter_may_have_the_name_of_a_keyword(name: str) -> None:
    """In xLAM's maps of parameters."""
    for others in ({}, {"type": {"type": "int", "description": "kind"}}):
        parameters = normalized_parameters({name: {"type": "str", "description": "d"}, **others})
        assert parameters["properties"].keys() == {name, *others}
        assert parameters["required"] == list({name: 0, **others})
        assert normalized_parameters(parameters) == parameters
