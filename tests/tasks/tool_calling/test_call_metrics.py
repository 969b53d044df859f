"""The baseline that copies, and the comparison of calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trm_fast.tasks.tool_calling.call_metrics import copied_calls, measure_calls
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.matching import argument_f1, expected_calls, same_calls

from .weather import LEXICON, request


def test_copying_baseline_and_scores() -> None:
    copied = copied_calls(request('Weather in "Rome" for 4 days'), LEXICON, 1)
    assert copied == [Call("get_weather", {"city": "Rome", "days": 4})]
    gold = [[Call("a", {"x": 1, "y": 2})]]
    assert argument_f1(gold, [[Call("a", {"x": 1})]]) == pytest.approx(2 / 3)
    assert not same_calls(gold[0], [Call("a", {"x": 1})])


def test_a_benchmark_expects_its_first_accepted_values() -> None:
    question = replace(
        request("Weather in Rome"), accepted=[{"get_weather": {"city": ["Rome", "Roma"], "days": ["", 2]}}]
    )
    assert expected_calls(question) == [Call("get_weather", {"city": "Rome"})]
    assert expected_calls(replace(question, accepted=[])) == []


def test_a_benchmark_does_not_take_a_text_for_a_number() -> None:
    question = replace(request("Weather in Rome"), accepted=[{"get_weather": {"city": ["Rome"], "days": [2.0]}}])

    def matched(days: object) -> float:
        calls = [[Call("get_weather", {"city": "rome", "days": days})]]
        return measure_calls([question], calls, LEXICON)["ast_match"]

    assert matched(2) == matched(2.0) == 1
    assert matched("2") == matched(True) == 0
