"""Calls as labels, and labels back as calls."""

from __future__ import annotations

import numpy as np
import pytest

from trm_fast.labels import ArgumentKind
from trm_fast.tasks.base import IGNORE
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.matching import same_calls
from trm_fast.tasks.tool_calling.select.calls import decode_calls, decode_spans, encode_labels
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits

from ..weather import LEXICON, PING, SUM, WEATHER, tool

LIMITS = RequestLimits(positions=48, words=24, tools=3, arguments=8, bag=4)


def round_trip(query: str, *calls: Call) -> list[Call]:
    request = Request.of(query, (WEATHER, SUM, PING), LIMITS, LEXICON)
    answer = encode_labels(request, calls, LIMITS)
    answer[:3] = np.where(answer[:3] == 1, 900, -900)
    return decode_calls(request, answer, LIMITS)


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("Weather in New York for five days?", [Call("get_weather", {"city": "New York", "days": 5})]),
        ("Weather in Đà Nẵng ☀️", [Call("get_weather", {"city": "Đà Nẵng", "days": 3})]),
        ("Weather in Hue, metric please", [Call("get_weather", {"city": "Hue", "metric": True})]),
        ("Add 1,200 and -3.5", [Call("add_numbers", {"numbers": [1200, -3.5]})]),
        ("Ping!", [Call("ping", {})]),
        ("Rome or Oslo weather?", [Call("get_weather", {"city": "Rome"}), Call("get_weather", {"city": "Oslo"})]),
        ("Weather on May 2nd, 2021 in any city", [Call("get_weather", {"city": "2021-05-02"})]),
        ("Weather for dogs", [Call("get_weather", {"city": "dog"})]),
        ("Weather in Hue for 5d", [Call("get_weather", {"city": "Hue", "days": 5})]),
        ("Add [[1, 2], [3]]", [Call("add_numbers", {"numbers": [[1, 2], [3]]})]),
        ("Add [1, 2], then [3, 4]", [Call("add_numbers", {"numbers": n}) for n in ([1, 2], [3, 4])]),
        ("Nothing for you", []),
    ],
)
def test_calls_become_labels_and_labels_calls(query: str, calls: list[Call]) -> None:
    assert same_calls(calls, round_trip(query, *calls))


def test_labels_by_hand() -> None:
    request = Request.of("Weather in Rome?", (WEATHER, PING), LIMITS, LEXICON)
    assert [t.name for t in request.tools] == ["get_weather", "ping"]
    labels = encode_labels(request, [Call("get_weather", {"city": "Rome"})], LIMITS)
    assert labels[:3].tolist() == [1, 0, IGNORE]
    assert labels[3:6].tolist() == [1, 0, 0]  # the city is a span of the request, the others are left out
    assert labels[3 + 8 :][:24].tolist() == [0, 0, 1, 0, *[IGNORE] * 20]


def test_a_value_without_a_span_is_labeled_other() -> None:
    request = Request.of("Weather there?", (WEATHER,), LIMITS, LEXICON)
    assert encode_labels(request, [Call("get_weather", {"city": "Rome"})], LIMITS)[3] == ArgumentKind.OTHER


def test_one_value_is_a_span_and_several_are_spans() -> None:
    request = Request.of("Weather in Rome, then in Oslo", (WEATHER,), LIMITS, LEXICON)
    calls = [Call("get_weather", {"city": city}) for city in ("Rome", "Oslo")]
    assert encode_labels(request, calls[:1], LIMITS)[3] == ArgumentKind.SPAN
    assert encode_labels(request, calls, LIMITS)[3] == ArgumentKind.SPANS
    for some in (calls[:1], calls):
        assert decode_calls(request, encode_labels(request, some, LIMITS), LIMITS) == some


def test_the_order_in_which_tools_are_offered_changes_nothing() -> None:
    one, other = (Request.of("Hi", tools, LIMITS, LEXICON) for tools in ((PING, SUM), (SUM, PING)))
    assert one == other


def test_words_that_do_not_fit_are_cut_but_the_called_tool_stays() -> None:
    tools = (*(tool(f"t{i}", "same") for i in range(9)), WEATHER)
    request = Request.of("weather city " * 5_000, tools, LIMITS, LEXICON)
    assert request.cut
    assert len(request.words) == LIMITS.words
    assert "get_weather" in [t.name for t in request.tools]


def test_spans_of_tags() -> None:
    assert decode_spans(np.array([0, 1, 2, 1, 0, 2, 2])) == [(1, 2), (3, 3), (5, 6)]


def test_the_number_of_tools_may_be_given() -> None:
    request = Request.of("Hi", (PING, SUM), LIMITS, LEXICON)
    answer = np.zeros(3 + 8 + 8 * 24, dtype=np.int32)
    answer[:2] = -5, -7
    assert decode_calls(request, answer, LIMITS) == []
    assert [c.name for c in decode_calls(request, answer, LIMITS, count=1)] == ["add_numbers"]
