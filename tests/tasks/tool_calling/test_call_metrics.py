"""The baseline that copies, and the comparison of calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trm_fast.tasks.tool_calling.call_metrics import copied_calls
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.matching import accepts, argument_f1, expected_calls, same_calls

from .weather import LEXICON, request


def test_copying_baseline_and_scores() -> None:
    copied = copied_calls(request('Weather in "Rome" for 4 days'), LEXICON, 1)
    assert copied == [Call("get_weather", {"city": "Rome", "days": 4})]
    gold = [[Call("a", {"x": 1, "y": 2})]]
    assert argument_f1(gold, [[Call("a", {"x": 1})]]) == pytest.approx(2 / 3)
    assert not same_calls(gold[0], [Call("a", {"x": 1})])
    accepted = [{"a": {"x": [1, 2], "y": ["", 5]}}]
    assert accepts([Call("a", {"x": 2})], accepted)
    assert not accepts([Call("a", {"x": 3})], accepted)
    assert not accepts([Call("a", {"x": 2, "z": 0})], accepted)
    assert not accepts([], accepted)
    assert accepts([], [])


def test_a_benchmark_expects_its_first_accepted_values() -> None:
    question = replace(
        request("Weather in Rome"), accepted=[{"get_weather": {"city": ["Rome", "Roma"], "days": ["", 2]}}]
    )
    assert expected_calls(question) == [Call("get_weather", {"city": "Rome"})]
    assert expected_calls(replace(question, accepted=[])) == []
