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
