"""Calls, tools and results between marks in texts; other marks are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation
from trm_fast.tasks.tool_calling.data.formats import detect_format
from trm_fast.tasks.tool_calling.data.refused import Refused

PLAN = {
    "name": "plan trip", "description": "Plans", "parameters": {"stops": {"type": "List[str]"}, "by": {"type": "dict"}},
}  # fmt: skip
WEATHER = {
    "name": "weather.get",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
ROME, OSLO = Call("weather.get", {"city": "Rome"}), Call("weather.get", {"city": "Oslo", "days": 2})
ONE = '{"name": "weather.get", "arguments": {"city": "Rome"}}'
TWO = '{"name": "weather.get", "parameters": {"city": "Oslo", "days": 2}}'
CITY = '{"city": "Rome"}'
FUNCTION = f"<functioncall> {ONE} </functioncall>"
TAGS = """<function=weather.get>
<parameter=city>
Oslo
</parameter>
<parameter=days>
2
</parameter>
</function>"""


def read(text: str, **columns: Any) -> Conversation:
    messages = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": text}]
    row = {"tools": [WEATHER, PLAN], "messages": messages} | columns
    return detect_format(row).read(row, "")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>{TWO}", [ROME, OSLO]),
        (f"<tool_call>[{ONE}, {TWO}]</tool_call><|im_end|>", [ROME, OSLO]),
        (f"[TOOL_CALLS] [{ONE}, {TWO}]</s>", [ROME, OSLO]),
        (f"[TOOL_CALLS]weather.get[ARGS]{CITY}[TOOL_CALLS]weather.get[CALL_ID]k1[ARGS]{CITY}", [ROME, ROME]),
        (f"<|python_tag|>{ONE}; {TWO}<|eom_id|>", [ROME, OSLO]),
        ('<function=weather.get>{"city": "Rome"}</function><|eom_id|>', [ROME]),
        (f"<tool_call>\n{TAGS}\n</tool_call>", [OSLO]),
        (f"{TAGS}{TAGS}", [OSLO, OSLO]),
        (f"<functioncall> {ONE} <|endoftext|>", [ROME]),
        (f"<multiplefunctions>{FUNCTION}\n{FUNCTION}\n</multiplefunctions>", [ROME, ROME]),
        (ONE, [ROME]),
        (f"```json\n[{ONE}, {TWO}]\n```", [ROME, OSLO]),
        ("[weather.get(city='Rome'), weather.get(city=\"Oslo\", days=2)]", [ROME, OSLO]),
        ("weather.get(city='Rome')", [ROME]),
    ],
)  # fmt: skip
def test_calls_of_all_conventions(text: str, calls: list[Call]) -> None:
    conversation = read(text)
    assert conversation.calls == calls
    assert [turn.role for turn in conversation.turns[1:]] == ["tool_call"] * len(calls)


def test_brackets_hold_any_value_and_any_name() -> None:
    text = '[plan trip(stops=["a, b)", \'c"]\'], by={"fast": true, "via": null, "n": (1, -2.5)})]'
    assert read(text).calls == [
        Call("plan trip", {"stops": ["a, b)", 'c"]'], "by": {"fast": True, "via": None, "n": [1, -2.5]}}),
    ]


@pytest.mark.parametrize("city", ["Coeur d'Alene", 'the "city"', "line\nbreak", "a\\b", "'}"])
def test_glaive_arguments_between_apostrophes(city: str) -> None:
    inner = json.dumps({"city": city})
    for written in (inner, inner.replace("'", "\\'")):
        text = f'<functioncall> {{"name": "weather.get", "arguments": \'{written}\'}} <|endoftext|>'
        assert read(text).calls == [Call("weather.get", {"city": city})]


def test_marks_inside_arguments_are_text() -> None:
    city = "</tool_call> <tool_call> [TOOL_CALLS] <|python_tag|> [weather.get(city=1)]"
    text = f"Hm.\n<tool_call>\n{json.dumps({'name': 'weather.get', 'arguments': {'city': city}})}\n</tool_call>\nDone."
    conversation = read(text)
    assert conversation.calls == [Call("weather.get", {"city": city})]
    assert [turn.text for turn in conversation.turns if turn.role == "assistant"] == ["Hm.", "Done."]


@pytest.mark.parametrize(
    "text",
    [
        "See [1] and [a](http://b).",
        "`[range(3)]` or [len(x) for x in y]",
        '{"name": "Bob", "age": 4}',
        "#include <functional>",
        "<think>\nI plan {CALL} now.\n</think>\nNo.",
    ],
)
def test_text_that_only_looks_like_a_call(text: str) -> None:
    text = text.replace("{CALL}", ONE)
    assert [turn.text for turn in read(text).turns[1:]] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{oops</tool_call>",
        f"<tool_call>{ONE}{ONE}</tool_call>",
        "<tool_call>weather.get\n<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>",
        "<|python_tag|>print(1)",
        "[TOOL_CALLS] now",
        "<function=weather.get><parameter=town>Rome</parameter></function>",
        "[weather.get('Rome')]",
        "[weather.get(city=Rome)]",
        '[weather.get(city="Rome)]',
        "[weather.get(city='a', city='b')]",
        "[unknown_tool(a=1)]",
        f"I call {ONE} now",
        "Like this:\nweather.get(city='Rome')",
        "Action: weather.get\nAction Input: {}",
        "```tool_code\nweather.get(city='Rome')\n```",
        "<function_calls><invoke name='weather.get'></invoke></function_calls>",
        "<<function>>weather.get(city='Rome')",
        f"<|tool_call|>[{ONE}]",
        "<|channel|>commentary to=functions.weather.get <|message|>{}",
        "<\uff5ctool\u2581calls\u2581begin\uff5c>",
        f"functools[{ONE}]",
        f"<tool_call id='1'>{ONE}</tool_call>",
        "<|tool_call>call:weather.get{}<tool_call|>",
        'Done: {"arguments": {"city": "Rome"}, "name": "weather.get"}.',
        '{"action": "weather.get", "action_input": {"city": "Rome"}}',
        "Call: weather.get(city='Rome')",
        "[FUNCTION_CALL] weather",
    ],
)
def test_other_marks_are_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"messages\[1\]\.content"):
        read(text)


def test_marks_of_an_assistant_in_a_users_text_are_refused() -> None:
    with pytest.raises(Refused, match="<tool_call>"):
        read("x", messages=[{"role": "user", "content": f"<tool_call>{ONE}</tool_call>"}])


@pytest.mark.parametrize(
    "system",
    [
        "Tools within <tools> </tools>:\n<tools>\n{one}\n{two}\n</tools>\nUse <tool_call></tool_call>.",
        "<tools>[{one}, {two}]</tools>",
        "[AVAILABLE_TOOLS] [{one}, {two}] [/AVAILABLE_TOOLS]",
        "Here is a list of functions in JSON format that you can invoke:\n[{one}, {two}]. \nShould you decide to ...",
        "with access to the following functions. Use them if required -\n{one}\n\n{two}\n",
    ],
)
def test_tools_in_the_system_text(system: str) -> None:
    text = system.replace("{one}", json.dumps(WEATHER)).replace("{two}", json.dumps(PLAN, indent=2))
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": f"<tool_call>{ONE}</tool_call>"},
    ]
    conversation = read("", tools=None, messages=messages)
    assert [tool.name for tool in conversation.tools] == ["weather.get", "plan trip"]
    assert "parameters" not in "".join(turn.text for turn in conversation.turns if turn.role == "system")
    assert conversation.calls == [ROME]
    in_column = read("", system=text, tools=None, messages=messages[1:])
    assert (in_column.tools, in_column.turns) == (conversation.tools, conversation.turns)


def test_tools_in_a_text_that_cannot_be_read_are_refused() -> None:
    broken = json.dumps(WEATHER)[:-3]
    with pytest.raises(Refused, match=r"^system: has "):
        read("Hi", tools=None, system=f"Functions:\n{broken}")
    other = f"<tools>{json.dumps(WEATHER | {'parameters': {'town': {'type': 'string'}}})}</tools>"
    with pytest.raises(Refused, match="otherwise than the row's column"):
        read("Hi", system=other)


def test_results_in_a_users_text() -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": f"<tool_call>{ONE}</tool_call>"},
        {"role": "user", "content": "<tool_response>\nwarm\n</tool_response>\nAnd tomorrow?"},
    ]
    turns = read("", messages=messages).turns
    assert [(turn.role, turn.text) for turn in turns[2:]] == [("tool_response", "warm"), ("user", "And tomorrow?")]
    messages[2]["role"] = "tool"
    with pytest.raises(Refused, match="beside the marked results"):
        read("", messages=messages)
