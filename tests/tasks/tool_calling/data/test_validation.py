"""What is wrong with calls."""

from __future__ import annotations

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool
from trm_fast.tasks.tool_calling.data.validation import problems

from ..rows import WEATHER


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
