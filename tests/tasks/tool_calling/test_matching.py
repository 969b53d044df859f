"""The AST match of the leaderboard."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.matching import ast_match

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
        ({"x": "4", "name": "NY"}, False),
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
    assert ast_match(calls[:2], [{"f": {"x": [1]}, "g": {"o": [{"k": [1]}]}}])
    assert ast_match([], [])
    assert not ast_match(calls[:1], [])
