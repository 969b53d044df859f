"""Messages of chats: calls in fields, results by id, roles, parts, and fields that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation
from trm_fast.tasks.tool_calling.data.formats import detect_format
from trm_fast.tasks.tool_calling.data.refused import Refused

from ..rows import WEATHER

SCHEMA = WEATHER["function"]["parameters"]
USER = {"role": "user", "content": "Weather in Rome and Oslo?"}
ROME, OSLO = Call("get_weather", {"city": "Rome"}), Call("get_weather", {"city": "Oslo"})


def read(*messages: Any, **columns: Any) -> Conversation:
    row = {"tools": [WEATHER], "messages": [USER, *messages]} | columns
    return detect_format(row).read(row, "chat:1")


def reply(content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | fields


def function(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "arguments": arguments}} | fields


def turns(conversation: Conversation) -> list[tuple[str, Any]]:
    return [(turn.role, turn.call or turn.text) for turn in conversation.turns[1:]]


@pytest.mark.parametrize("content", [None, "", "   "])
def test_calls_in_fields_whatever_the_content(content: Any) -> None:
    calls = [function('{"city": "Rome"}', id="a"), function({"city": "Oslo"}, id="b")]
    assert turns(read(reply(content, tool_calls=calls))) == [("tool_call", ROME), ("tool_call", OSLO)]


def test_text_beside_a_call_is_a_turn_before_it() -> None:
    read_turns = turns(read(reply("I look.", tool_calls=[function('{"city": "Rome"}')])))
    assert read_turns == [("assistant", "I look."), ("tool_call", ROME)]


def test_results_follow_the_order_of_their_calls() -> None:
    calls = [function('{"city": "Rome"}', id="a"), function('{"city": "Oslo"}', id="b")]
    results = [
        {"role": "tool", "tool_call_id": "b", "content": "cold"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "warm"}]},
    ]
    assert turns(read(reply(tool_calls=calls), *results))[2:] == [
        ("tool_response", "warm"),
        ("tool_response", "cold"),
    ]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (function(""), {}),
        (function(None), {}),
        (function("{}"), {}),
        ({"name": "get_weather"}, {}),
        *[
            ({"name": "get_weather", key: {"city": "Rome"}}, {"city": "Rome"})
            for key in ("args", "input", "parameters")
        ],
        ({"id": "x", "function": {"name": "get_weather", "kwargs": "{'city': 'Rome'}"}}, {"city": "Rome"}),
    ],
)
def test_arguments_under_any_known_key(call: Any, arguments: dict[str, Any]) -> None:
    assert read(reply(tool_calls=[call])).calls == [Call("get_weather", arguments)]
    assert read({"role": "tool_call", "content": call}).calls == [Call("get_weather", arguments)]


def test_function_calls_of_2023() -> None:
    row = {
        "functions": [WEATHER["function"]],
        "messages": [
            USER,
            reply(function_call={"name": "get_weather", "arguments": '{"city": "Rome"}'}),
            {"role": "function", "name": "get_weather", "content": "warm"},
        ],
    }
    conversation = detect_format(row).read(row, "")
    assert [tool.name for tool in conversation.tools] == ["get_weather"]
    assert turns(conversation) == [("tool_call", ROME), ("tool_response", "warm")]


def test_parts_of_anthropic() -> None:
    uses = [
        {"type": "tool_use", "id": i, "name": "get_weather", "input": c.arguments}
        for i, c in zip("ab", (ROME, OSLO), strict=True)
    ]
    results = [
        {"type": "tool_result", "tool_use_id": i, "content": t}
        for i, t in (("b", "cold"), ("a", [{"type": "text", "text": "warm"}]))
    ]
    row = {
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [{"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA}],
        "messages": [
            USER,
            reply([{"type": "text", "text": "I look."}, *uses]),
            {"role": "user", "content": [*results, {"type": "text", "text": "And Bonn?"}]},
        ],
    }
    conversation = detect_format(row).read(row, "")
    assert conversation.tools[0].to_json() == WEATHER
    assert [(turn.role, turn.call or turn.text) for turn in conversation.turns] == [
        ("system", "Be brief."), ("user", USER["content"]), ("assistant", "I look."), ("tool_call", ROME),
        ("tool_call", OSLO), ("tool_response", "warm"), ("tool_response", "cold"), ("user", "And Bonn?"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "role"),
    [("developer", "system"), ("USER", "user"), ("Assistant", "assistant"), ("Tool-Response", "tool_response")],
)
def test_names_of_roles(name: str, role: str) -> None:
    assert turns(read({"role": name, "content": "x"})) == [(role, "x")]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": text} for text in ("Hi", " there.", "Bye.")]
    assert turns(read({"role": "user", "content": parts})) == [("user", "Hi there.\nBye.")]


@pytest.mark.parametrize("tool", [
    {"name": "get_weather", "description": "Weather of a city", "inputSchema": SCHEMA, "title": "Weather"},
    {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA, "required": None},
    {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA["properties"],
     "required": ["city"]},
])  # fmt: skip
def test_schemas_of_other_dialects(tool: Any) -> None:
    assert read(tools=[tool]).tools[0].to_json() == WEATHER
    assert read(tools={"tools": [tool]}).tools[0].to_json() == WEATHER


def test_empty_fields_and_notes_are_ignored() -> None:
    row = read(reply("Hi", tool_calls=None, audio=None, annotations=[]), chosen=None, source="web", tool_choice="auto")
    assert turns(row) == [("assistant", "Hi")]


NAMED = {"name": "get_weather"}
CALLED = reply(tool_calls=[function({"city": "Rome"}, id="a"), function({"city": "Oslo"}, id="b")])


@pytest.mark.parametrize(
    ("messages", "field", "reason"),
    [
        ([reply("x", toolCalls=[1])], "messages[1].toolCalls", "accepted are role, content, tool_calls"),
        ([USER | {"tool_calls": [1]}], "messages[1].tool_calls", "not known"),
        ([reply(tool_calls=[function('{"city": ')])], "messages[1].tool_calls[0].function.arguments", "not valid JSON"),
        ([reply(tool_calls=[NAMED | {"values": {"a": 1}}])], "messages[1].tool_calls[0].values", "accepted are name"),
        ([reply(tool_calls=[NAMED | {"args": {"a": 1}, "input": {"a": 1}}])], "messages[1].tool_calls[0]", "both args"),
        ([reply(tool_calls=[{"type": "custom", "custom": {}}])], "messages[1].tool_calls[0].type", "custom"),
        ([reply(tool_calls=[{"name": "other", "arguments": {}}])], "messages[1].content", "tools: get_weather"),
        ([reply(tool_calls=[function({})], function_call={"name": "get_weather"})], "messages[1]", "both tool_calls"),
        ([reply("{}", type="function_call", name="get_weather")], "messages[1].type", "function_call"),
        ([reply(None)], "messages[1].content", "no call"),
        ([reply("x", weight=0)], "messages[1].weight", "only 1"),
        ([{"role": "ipython", "content": "x"}], "messages[1].role", "'ipython'"),
        ([{"content": "x"}], "messages[1].role", "None"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[1].content[0].type", "image_url"),
        ([{"role": "user", "content": {"text": "x"}}], "messages[1].content", "must be text"),
        ([{"role": "user", "content": "x", "value": "y"}], "messages[1]", "both content and value"),
        ([CALLED, {"role": "tool", "tool_call_id": "c", "content": "x"}], "messages[2].content", "['a', 'b']"),
        ([CALLED, {"role": "tool", "tool_call_id": "b", "content": "x"}], "messages[2].content", "has no result"),
        ([CALLED, {"role": "function", "name": "other", "content": "x"}], "messages[2].content", "'other'"),
        ([{"role": "function", "name": "get_weather", "content": "x"}], "messages[1].content", "'get_weather'"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(messages: list[Any], field: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read(*messages)
    assert caught.value.field == field
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("columns", "field", "reason"),
    [
        ({"chosen": [USER]}, "chosen", "accepted are messages, tools"),
        ({"functions": [WEATHER]}, "functions", "beside tools"),
        ({"tools": [{"type": "web_search_1", "name": "web_search"}]}, "tools[0].type", "web_search_1"),
        ({"tools": [{"name": "f", "schema": SCHEMA}]}, "tools[0].schema", "parameters, input_schema, inputSchema"),
        ({"tools": [{"name": "f", "parameters": SCHEMA, "input_schema": SCHEMA}]}, "tools[0]", "both"),
        ({"tools": [WEATHER["function"] | {"required": ["unit"]}]}, "tools[0].parameters", "required"),
    ],
)
def test_columns_and_tools_that_are_not_understood_are_refused(columns: Any, field: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**columns)
    assert caught.value.field == field
    assert reason in caught.value.reason
