"""Rows as published data sets have them: xLAM, Glaive, ToolACE and BFCL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.data.formats import detect_format, get_format
from trm_fast.tasks.tool_calling.data.loading import load
from trm_fast.tasks.tool_calling.data.refused import Refused

SEARCH = {
    "name": "find_bus",
    "description": "Finds a bus",
    "parameters": {
        "to": {"description": "Town", "type": "str"},
        "seats": {"description": "Seats", "type": "int, optional", "default": 1},
        "via": {"description": "Stops", "type": "List[str], optional"},
    },
}
PARAMETERS = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "description": "Town"},
        "seats": {"type": "integer", "description": "Seats", "default": 1},
        "via": {"type": "array", "items": {"type": "string"}, "description": "Stops"},
    },
    "required": ["to"],
}
AS_CALLS = [Call("find_bus", {"to": "Lund", "via": ["Ystad"]}), Call("find_bus", {"to": "Kivik"})]
CALLS = [call.to_json() for call in AS_CALLS]


@pytest.mark.parametrize("form", [json.dumps, lambda value: value])
def test_xlam_rows(form: Any) -> None:
    row = {"id": 3, "query": "Buses?", "tools": form([SEARCH]), "answers": form(CALLS)}
    conversation = detect_format(row).read(row, "")
    assert conversation.tools[0].parameters == PARAMETERS
    assert (conversation.id, conversation.query, conversation.calls) == ("3", "Buses?", AS_CALLS)
    written = get_format("xlam").to_row(conversation)
    assert json.loads(written["answers"]) == CALLS


def test_no_answer_of_xlam_says_that_no_call_is_right() -> None:
    row = {"query": "Ping", "tools": "[]", "answers": "[]"}
    conversation = get_format("xlam").read(row, "")
    assert conversation.has_answer
    assert conversation.calls == []
    assert get_format("xlam").to_row(conversation) == row
    assert get_format("swift").read(get_format("swift").to_row(conversation), "") == conversation
    decided = get_format("slots").read(get_format("slots").to_row(conversation), "")
    assert (decided.decision, decided.all_turns) == ("direct_answer", list(conversation.turns))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query": None}, "query"), ({"answers": None}, "answers"), ({"answers": "[{"}, "answers"),
        ({"answers": [{"name": "other", "arguments": {}}]}, "answers[0]"),
        ({"answers": [{"name": "find_bus", "values": {"to": "x"}}]}, "answers[0].values"), ({"plan": "x"}, "plan"),
    ],
)  # fmt: skip
def test_xlam_rows_that_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        get_format("xlam").read({"query": "Buses?", "tools": [SEARCH], "answers": CALLS} | changes, "")
    assert caught.value.field == field


CHAT = """USER: A bus to Lund?


ASSISTANT: I look.
<functioncall> {"name": "find_bus", "arguments": '{"to": "Lund", "via": ["St. Olof's"]}'} <|endoftext|>


FUNCTION RESPONSE: {"time": "8:00"}


ASSISTANT: At 8:00. <|endoftext|>


"""


@pytest.mark.parametrize("version", [1, 2])
def test_raw_glaive(version: int) -> None:
    other = json.dumps(SEARCH | {"name": "find_train"}, indent=4)
    system = (
        f"SYSTEM: You have access to the following functions. Use them if required -\n{json.dumps(SEARCH)}\n\n{other}\n"
    )
    row = {"system": system, "chat": CHAT} if version == 2 else {"sample": system + CHAT}
    conversation = detect_format(row).read(row, "")
    assert get_format("glaive").read(row, "") == conversation
    assert [tool.name for tool in conversation.tools] == ["find_bus", "find_train"]
    assert [(turn.role, turn.call or turn.text) for turn in conversation.turns[1:]] == [
        ("user", "A bus to Lund?"),
        ("assistant", "I look."),
        ("tool_call", Call("find_bus", {"to": "Lund", "via": ["St. Olof's"]})),
        ("tool_response", '{"time": "8:00"}'),
        ("assistant", "At 8:00."),
    ]


def test_raw_glaive_without_functions_or_with_broken_ones() -> None:
    row = {"system": "SYSTEM: You have no access to functions.", "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"}
    assert [turn.text for turn in get_format("glaive").read(row, "").turns] == [
        "You have no access to functions.", "Hi", "Hello",
    ]  # fmt: skip
    broken = row | {"system": f"SYSTEM: functions -\n{json.dumps(SEARCH)[:-9]}"}
    with pytest.raises(Refused, match=r"^system: "):
        get_format("glaive").read(broken, "")
    with pytest.raises(Refused, match="not with USER:"):
        get_format("glaive").read(row | {"chat": "Hi"}, "")


def test_glaive_in_sharegpt() -> None:
    inner = '{"name": "find_bus", "arguments": \'{"to": "Lund"}\'}'
    for column, name in (("tools", "function_call"), ("function_description", "function-call")):
        turns = [("human", "A bus?"), (name, inner), (name.replace("call", "response"), "8:00"), ("gpt", "At 8.")]
        row = {column: json.dumps(SEARCH), "conversations": [{"from": role, "value": text} for role, text in turns]}
        conversation = detect_format(row).read(row, "")
        assert conversation.calls == [Call("find_bus", {"to": "Lund"})]
        assert [turn.role for turn in conversation.turns] == ["user", "tool_call", "tool_response", "assistant"]


def test_toolace() -> None:
    trends = {
        "name": "Market Trends API", "description": "Trends", "required": None,
        "parameters": {"type": "dict", "properties": {"kind": {"type": "string"}}, "required": ["kind"]},
    }  # fmt: skip
    system = "Here is a list of functions in JSON format that you can invoke:\n"
    system += f"{json.dumps([trends, SEARCH])}. \nPut it in the format of [func1(a=b), func2(params)]\n"
    turns = [
        ("user", "Trends and a bus?"),
        ("assistant", '[Market Trends API(kind="A (b), c"), find_bus(to="Lund", via=["x", \'y\'])]'),
        ("tool", '[{"name": "Market Trends API", "results": {}}]'),
        ("assistant", "See [1]."),
    ]
    row = {"system": system, "conversations": [{"from": role, "value": text} for role, text in turns]}
    conversation = detect_format(row).read(row, "")
    assert [tool.name for tool in conversation.tools] == ["Market Trends API", "find_bus"]
    assert conversation.tools[0].parameters["required"] == ["kind"]
    assert conversation.calls == [
        Call("Market Trends API", {"kind": "A (b), c"}), Call("find_bus", {"to": "Lund", "via": ["x", "y"]}),
    ]  # fmt: skip
    assert conversation.turns[-1].text == "See [1]."


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q_{number}", "question": [[{"role": "user", "content": "A bus?"}]], "function": [SEARCH]} | more


def test_bfcl_answers_in_a_folder(tmp_path: Path) -> None:
    answer = {"id": "q_0", "ground_truth": [{"find_bus": {"to": ["Lund"]}}]}
    rows = [question(0), question(1), question(2, question=[[], []], involved_classes=["Bus"])]
    (tmp_path / "BFCL_v4_simple.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "possible_answer" / "BFCL_v4_simple.json").write_text(json.dumps(answer))
    loaded = load(tmp_path / "BFCL_v4_simple.json")
    assert [c.accepted for c in loaded.conversations] == [[{"find_bus": {"to": ["Lund"]}}], None]
    assert ["2 rounds" in refusal.reason for refusal in loaded.refused] == [True]


def test_bfcl_answers_in_the_row() -> None:
    row = question(0, ground_truth=["find_bus(to='Lund', via=['x'])"], execution_result_type=["exact_match"])
    assert get_format("bfcl").read(row, "").accepted == [{"find_bus": {"to": ["Lund"], "via": [["x"]]}}]
    with pytest.raises(Refused, match="initial_config"):
        get_format("bfcl").read(question(0, initial_config={"a": 1}), "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"find_train": {"to": ["Lund"]}}, "find_train"),
        ({"find_bus": {"to": "Lund"}}, "a list of values"),
        ({"find_bus": ["Lund"]}, "a list of values"),
        ("find_train(to='Lund')", "find_train"),
        (7, "not 7"),
    ],
)
def test_bfcl_answers_that_no_call_can_match_are_refused(answer: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        get_format("bfcl").read(question(0, ground_truth=[answer]), "")


def test_two_answers_to_one_bfcl_question_are_refused(tmp_path: Path) -> None:
    answers = [{"id": "q_0", "ground_truth": [{"find_bus": {"to": [town]}}]} for town in ("Lund", "Lund", "Malmo")]
    (tmp_path / "simple.jsonl").write_text(json.dumps(question(0)))
    (tmp_path / "simple_possible_answer.jsonl").write_text("\n".join(map(json.dumps, answers)))
    with pytest.raises(UserError, match=r"simple_possible_answer\.jsonl:3: there are two different answers.*q_0"):
        load(tmp_path / "simple.jsonl")
