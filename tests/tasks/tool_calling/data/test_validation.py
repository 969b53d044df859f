"""Messages for invalid calls."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool
from trm_fast.tasks.tool_calling.data.validation import fits, problems

from ..rows import WEATHER


@pytest.mark.parametrize(
    ("call", "messages"),
    [
        (Call("get_weather", {"city": "Rome"}), []),
        (Call("get_weather", {"city": "Rome", "unit": "C"}), []),
        (Call("get_wether", {"city": "Rome"}), ["the tool 'get_wether' is not offered"]),
        (Call("get_weather", {}), ["city is missing"]),
        (Call("get_weather", {"city": 5}), ["city: 5 is not of type string"]),
        (Call("get_weather", {"city": "Rome", "unit": "K"}), ["unit: 'K' is not one of C, F"]),
        (Call("get_weather", {"city": "Rome", "day": 1}), ["day is not a parameter"]),
    ],
)
def test_problems(call: Call, messages: list[str]) -> None:
    assert problems(call, [Tool.of(WEATHER)]) == messages


def test_problems_reach_into_lists_and_objects() -> None:
    tool = Tool.of({
        "name": "f",
        "parameters": {
            "a": {"type": "List[int]"},
            "o": {"type": "object", "properties": {"k": {"type": "bool"}}, "required": ["k"]},
        },
    })  # fmt: skip
    assert problems(Call("f", {"a": [1, 2.0], "o": {"k": True}}), [tool]) == []
    assert problems(Call("f", {"a": [1, True], "o": {}}), [tool]) == [
        "a[1]: True is not of type integer",
        "o.k is missing",
    ]


def test_every_valid_keyword_of_a_schema_is_checked() -> None:
    def faults(value: Any, **schema: Any) -> list[str]:
        return problems(Call("f", {"x": value}), [Tool.of({"name": "f", "parameters": {"x": schema}})])

    assert faults(5, type="integer", maximum=3) == ["x: 5 is greater than the maximum of 3"]
    assert faults("ab", type="string", pattern="^b") == ["x: 'ab' does not match '^b'"]
    assert faults("ab", type="string", pattern="(") == []
    assert faults(5, type="string", pattern="(") == ["x: 5 is not of type string"]
    assert faults("any", enum=["a", "b"], default="any") == []
    assert faults({}, type="object", anyOf=[{"type": "dict"}]) == []


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (2.0, "integer", True),
        (2.5, "integer", False),
        (True, "integer", False),
        (1, "number", True),
        (1, "boolean", False),
    ],
)
def test_numbers_and_booleans_are_kept_apart(value: Any, kind: str, right: bool) -> None:
    assert fits(value, {"type": kind}) is right


def faults(value: Any, definitions: Any = None, **schema: Any) -> list[str]:
    """The problems of a call whose argument x has a value."""
    parameters = {"properties": {"x": schema}, "$defs": definitions or {}}
    return problems(Call("f", {"x": value}), [Tool.of({"name": "f", "parameters": parameters})])


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}},
    "required": ["value"],
}


def test_references_are_followed() -> None:
    at_person = {"$ref": "#/$defs/Person"}
    assert faults({"name": "Ann"}, {"Person": PERSON}, **at_person) == []
    assert faults({"age": 3}, {"Person": PERSON}, **at_person) == ["x.name is missing", "x.age is not a parameter"]
    assert faults([{"name": 5}], {"Person": PERSON}, type="array", items=at_person) == [
        "x[0].name: 5 is not of type string"
    ]
    either = [at_person, {"type": "null"}]
    assert faults(None, {"Person": PERSON}, anyOf=either) == []
    assert faults({}, {"Person": PERSON}, anyOf=either) == ["x.name is missing"]
    assert faults("Ann", {"Person": PERSON}, anyOf=either) == ["x: 'Ann' is not of type object or null"]
    at_node = {"$ref": "#/$defs/Node"}
    assert faults({"value": 1, "next": {"value": 2}}, {"Node": NODE}, **at_node) == []
    assert faults({"value": 1, "next": {"value": 2, "next": {}}}, {"Node": NODE}, **at_node) == [
        "x.next.next.value is missing"
    ]


@pytest.mark.parametrize(
    ("schema", "right", "wrong", "messages"),
    [
        ({"const": True}, True, False, ["x: False is not True"]),
        ({"enum": ["a", None]}, None, "b", ["x: 'b' is not one of a, None"]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, 1, 1.5, ["x: 1.5 is not of type integer or string"]),
        (
            {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "string"}]},
            "a", 1, ["x: 1 is less than the minimum of 5"],
        ),
        (
            {"anyOf": [{"minimum": 5}, {"maximum": 1}]}, 0, 3, ["x: 3 fits none of the 2 alternatives"],
        ),
        ({"type": "integer", "exclusiveMinimum": 3}, 4, 3, ["x: 3 is less than or equal to the minimum of 3"]),
        ({"type": "string", "minLength": 2}, "ab", "a", ["x: 'a' is too short"]),
        ({"type": "array", "maxItems": 1, "uniqueItems": True}, [1], [1, 2], ["x: [1, 2] is too long"]),
        ({"type": "number", "multipleOf": 0.5}, 1.5, 1.2, ["x: 1.2 is not a multiple of 0.5"]),
        ({"type": "string", "nullable": True}, None, 5, ["x: 5 is not of type string or null"]),
        ({"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [1, 2],
         ["x[1]: 2 is not of type string"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"k": 1}, {"k": "a"},
         ["x.k: 'a' is not of type integer"]),
        ({"properties": {"k": {}}, "additionalProperties": True}, {"k": 1, "l": 2}, 5, None),
        ({"properties": {"k": {}}, "patternProperties": {"^v_": {"type": "integer"}}}, {"k": 1, "v_a": 2}, {"v_a": "b"},
         ["x.v_a: 'b' is not of type integer"]),
        ({"type": "object"}, {"any": 1}, 5, ["x: 5 is not of type object"]),
        ({"allOf": [PERSON, {"properties": {"age": {}}}]}, {"name": "a", "age": 1}, {"name": "a", "y": 1},
         ["x.y is not a parameter"]),
        ({"anyOf": [PERSON, {"type": "object"}]}, {"y": 1}, 5, ["x: 5 is not of type object"]),
        ({"not": {"type": "string"}}, 5, "a", ["x: 'a' should not be valid under {'type': 'string'}"]),
        ({"items": False, "type": "array"}, [], [1], ["x[0]: 1 should not be valid under {}"]),
    ],
)  # fmt: skip
def test_keywords(schema: dict[str, Any], right: Any, wrong: Any, messages: list[str] | None) -> None:
    assert faults(right, **schema) == []
    assert faults(wrong, **schema) == messages or messages is None


def test_further_arguments_are_allowed_where_the_schema_says_so() -> None:
    def of_tool(arguments: dict[str, Any], **parameters: Any) -> list[str]:
        return problems(Call("f", arguments), [Tool.of({"name": "f", "parameters": {"type": "object", **parameters}})])

    a = {"properties": {"a": {"type": "string"}}}
    assert of_tool({"b": 1}, **a) == of_tool({"b": 1}, **a, additionalProperties=False) == ["b is not a parameter"]
    assert of_tool({"b": 1}) == ["b is not a parameter"]
    assert of_tool({"a": "x", "b": 1}, **a, additionalProperties=True) == []
    assert of_tool({"b": 1}, **a, additionalProperties={"type": "string"}) == ["b: 1 is not of type string"]
    assert of_tool({"a": "x"}, **a, additionalProperties=True, required=["b"]) == ["b is missing"]
    either = [{"required": ["a"]}, {"required": ["b"]}]
    two = {"properties": {"a": {}, "b": {}}, "anyOf": either}
    assert of_tool({"b": 1}, **two) == []
    assert of_tool({}, **two) == ["arguments: {} fits none of the 2 alternatives"]


def test_nested_calls_are_checked_or_said_to_be_too_deep() -> None:
    value: Any = {"value": 1}
    for _ in range(3000):
        value = {"value": 1, "next": value}
    assert faults(value, {"Node": NODE}, **{"$ref": "#/$defs/Node"}) == [
        "the arguments are nested too deeply to be checked"
    ]
