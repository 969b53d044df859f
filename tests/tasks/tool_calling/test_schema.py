"""Schemas of all dialects, faults of calls, and the leaderboard's match."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.bfcl import ast_match
from trm_fast.tasks.tool_calling.conversation import Call, Tool
from trm_fast.tasks.tool_calling.schema import normalised_parameters, problems

from .rows import WEATHER


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
    assert normalised_parameters({"p": {"type": kind}} if kind != "any" else {"p": {"type": "any"}})["properties"] == {
        "p": schema
    }


@pytest.mark.parametrize("nothing", [None, {}, "", [], {"type": "object"}, {"type": "dict", "properties": {}}])
def test_no_parameters(nothing: Any) -> None:
    assert normalised_parameters(nothing) == {"type": "object", "properties": {}, "required": []}


def test_a_parameter_called_type_is_no_type() -> None:
    made = normalised_parameters({"type": {"type": "str", "description": "kind"}, "id": {"type": "int"}})
    assert list(made["properties"]) == ["type", "id"]


@pytest.mark.parametrize("wrong", [5, ["a"], {"p": 5}, {"type": "object", "properties": [1]}])
def test_no_schema(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        normalised_parameters(wrong)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call("get_weather", {"city": "Rome"}), []),
        (Call("get_weather", {"city": "Rome", "unit": "C"}), []),
        (Call("get_wether", {"city": "Rome"}), ["the tool 'get_wether' is not offered"]),
        (Call("get_weather", {}), ["city is missing"]),
        (Call("get_weather", {"city": 5}), ["city: 5 is no string"]),
        (Call("get_weather", {"city": "Rome", "unit": "K"}), ["unit: 'K' is none of C, F"]),
        (Call("get_weather", {"city": "Rome", "day": 1}), ["day is not a parameter"]),
    ],
)
def test_problems(call: Call, said: list[str]) -> None:
    assert problems(call, [Tool.of(WEATHER)]) == said


def test_problems_reach_into_lists_and_objects() -> None:
    tool = Tool.of({
        "name": "f",
        "parameters": {
            "a": {"type": "List[int]"},
            "o": {"type": "object", "properties": {"k": {"type": "bool"}}, "required": ["k"]},
        },
    })  # fmt: skip
    assert problems(Call("f", {"a": [1, 2.0], "o": {"k": True}}), [tool]) == []
    assert problems(Call("f", {"a": [1, True], "o": {}}), [tool]) == ["a[1]: True is no integer", "o.k is missing"]


ACCEPTED = [{"f": {"x": [4], "name": ["New York", "NY"], "unit": ["", "m"]}}]


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"x": 4, "name": "new york."}, True),
        ({"x": 4.0, "name": "NY", "unit": "m"}, True),
        ({"x": 4, "name": "NY", "unit": "km"}, False),
        ({"x": 5, "name": "NY"}, False),
        ({"name": "NY"}, False),
        ({"x": 4, "name": "NY", "more": 1}, False),
        ({"x": True, "name": "NY"}, False),
    ],
)
def test_ast_match_of_one_call(arguments: dict[str, Any], right: bool) -> None:
    assert ast_match([Call("f", arguments)], ACCEPTED) is right


def test_ast_match_of_several_calls_in_any_order() -> None:
    accepted = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}, {"g": {"o": [{"k": [1], "l": ["", 2]}]}}]
    calls = [Call("f", {"x": 1}), Call("g", {"o": {"k": 1}}), Call("f", {"x": 2})]
    assert ast_match(calls, accepted)
    assert not ast_match(calls[:2], accepted)
    assert not ast_match([Call("f", {"x": 2}), Call("g", {"o": {"k": 1}}), Call("f", {"x": 2})], accepted)
    assert ast_match([], [])
    assert not ast_match(calls[:1], [])
