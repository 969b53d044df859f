"""Readers and writers with rows written by hand; malformed rows are refused with field and reason."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trm_fast.cli.tool_data import format_commands
from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn
from trm_fast.tasks.tool_calling.data.formats import Command, Format, detect_format, get_format, register, registry
from trm_fast.tasks.tool_calling.data.formats.bfcl import read_bfcl
from trm_fast.tasks.tool_calling.data.formats.hermes import read_hermes, write_hermes
from trm_fast.tasks.tool_calling.data.formats.slots import next_step, read_slots, write_slots
from trm_fast.tasks.tool_calling.data.formats.swift import read_swift, write_swift
from trm_fast.tasks.tool_calling.data.loading import load
from trm_fast.tasks.tool_calling.data.refused import Refused

from ..rows import BFCL, DATA, HERMES, SLOTS, WEATHER, XLAM, needs_data


def test_a_registered_format_is_read_and_has_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))

    def read(row: Any, where: str) -> Conversation:
        return Conversation((), (Turn("user", row["say"]),), where)

    changed = Format(
        "plain", ("say",), read, commands={"plain": Command("Reads lines.", "trm-fast data plain x.jsonl")}
    )
    assert register(changed) is get_format("plain")
    (tmp_path / "x.jsonl").write_text('{"say": "Hi"}\n')
    assert [c.query for c in load(tmp_path / "x.jsonl").conversations] == ["Hi"]
    assert "plain" in format_commands.__wrapped__()
    with pytest.raises(ValueError, match="already known as plain"):
        register(replace(changed, name="other"))
    register(replace(changed, name="narrow", columns=("say", "mood")))
    assert detect_format({"say": "Hi", "mood": "good"}).name == "narrow"
    assert detect_format({"say": "Hi"}).name == "plain"
    with pytest.raises(UserError, match=r"unknown format 'none'; known: .*plain"):
        load(tmp_path / "x.jsonl", "none")


def _without(row: dict[str, Any], *path: Any, value: Any = None) -> dict[str, Any]:
    """The row with the value at ``path`` replaced or removed."""
    changed = copy.deepcopy(row)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


def test_hermes_turns_tools_and_calls() -> None:
    read = read_hermes(HERMES)
    assert [tool.to_json() for tool in read.tools] == [WEATHER]
    assert [turn.role for turn in read.turns] == [
        "system", "user", "assistant", "tool_call", "tool_call", "tool_response", "tool_response", "assistant",
    ]  # fmt: skip
    assert read.turns[0].text == "Be brief."
    assert read.turns[1].text == "Weather in Đà Nẵng? ☀️"
    assert read.turns[2].text == "<think>\nA call.\n</think>"
    assert read.calls == [
        Call("get_weather", {"city": "Đà Nẵng"}),
        Call("get_weather", {"city": "Hue", "unit": "C"}),
    ]
    assert [t.text for t in read.turns if t.role == "tool_response"] == ['{"temp": 31}', "29"]
    assert read.query == read.turns[1].text


def test_hermes_to_swift_is_the_documented_format() -> None:
    row = write_swift(read_hermes(HERMES))
    assert json.loads(row["tools"]) == [WEATHER]
    assert row["messages"][2:4] == [
        {"role": "assistant", "content": "<think>\nA call.\n</think>"},
        {"role": "tool_call", "content": '{"name": "get_weather", "arguments": {"city": "Đà Nẵng"}}'},
    ]


def test_both_ways_keep_a_conversation() -> None:
    read = read_hermes(HERMES)
    assert read_swift(write_swift(read)) == read
    assert read_hermes(write_hermes(read_swift(write_swift(read)))) == read


def test_user_and_assistant_are_the_same_as_human_and_gpt() -> None:
    row = json.loads(json.dumps(HERMES).replace('"human"', '"user"').replace('"gpt"', '"assistant"'))
    assert read_hermes(row) == read_hermes(HERMES)


def test_xlam_parameters_without_properties() -> None:
    read = read_swift(XLAM)
    ping, add = read.tools
    assert ping.parameters == {"type": "object", "properties": {}, "required": []}
    assert add.parameters == {
        "type": "object",
        "properties": {
            "numbers": {"type": "array", "items": {"type": "integer"}, "description": "What to add"},
            "digits": {"type": "integer", "description": "Kept", "default": 2},
        },
        "required": ["numbers"],
    }
    assert read.calls == [Call("sum_up", {"numbers": [1, 2]})]


def test_slots_row_both_ways() -> None:
    read = read_slots(SLOTS)
    assert (read.decision, read.call, read.slots) == (
        "tool_call",
        Call("get_weather", {"city": "Rome"}),
        SLOTS["slots"],
    )
    assert write_slots(read) == SLOTS
    swift = read_swift(write_swift(read))
    assert swift.turns[-1] == Turn.of_call(Call("get_weather", {"city": "Rome"}))
    head = next_step(swift)
    assert (head.turns, head.decision, head.call) == (read.turns, "tool_call", read.call)


def test_bfcl_question() -> None:
    read = read_bfcl(BFCL, accepted=[{"math.hypot": {"x": [4], "y": [5]}}])
    assert read.query == "Hypotenuse of 4 and 5?"
    assert read.tools[0].parameters["properties"] == {"x": {"type": "number"}, "y": {"type": "number"}}
    assert read.accepted == [{"math.hypot": {"x": [4], "y": [5]}}]


def test_formats_are_recognized() -> None:
    assert [detect_format(row).name for row in (HERMES, XLAM, SLOTS, BFCL)] == ["hermes", "swift", "slots", "bfcl"]


@pytest.mark.parametrize(
    ("read", "row", "field", "reason"),
    [
        (read_hermes, [], "row", "must be an object"),
        (read_hermes, _without(HERMES, "conversations"), "conversations", "is missing"),
        (read_hermes, _without(HERMES, "conversations", value="x"), "conversations", "not valid JSON"),
        (read_hermes, {"conversations": []}, "conversations", "is empty"),
        (read_hermes, _without(HERMES, "conversations", 1, "from", value="robot"), "conversations[1].from", "'robot'"),
        (read_hermes, _without(HERMES, "conversations", 1, "value"), "conversations[1].value", "is missing"),
        (
            read_hermes,
            _without(HERMES, "conversations", 2, "value", value="<tool_call>{broken</tool_call>"),
            "conversations[2].value <tool_call>",
            "not valid JSON",
        ),
        (read_swift, _without(XLAM, "tools", value="[{"), "tools", "not valid JSON"),
        (read_swift, _without(XLAM, "tools", value='[{"function": {}}]'), "tools[0].name", "needs a name"),
        (read_swift, _without(XLAM, "messages", 1, "content", value="[1]"), "messages[1].content", "a call is"),
        (read_slots, _without(SLOTS, "decision", value="perhaps"), "decision", "'perhaps'"),
        (read_slots, _without(SLOTS, "tool", "name", value="other"), "tool.name", "not among the row's tools"),
        (read_slots, _without(SLOTS, "slots", value=[1]), "slots", "must be an object"),
        (read_slots, _without(SLOTS, "history", value=["hi"]), "history[0]", "a turn is an object"),
        (read_bfcl, _without(BFCL, "question"), "question", "is missing"),
    ],
)
def test_malformed_rows_say_field_and_reason(read: Any, row: Any, field: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read(row)
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_two_tools_of_one_name() -> None:
    twice = [{"name": "f", "parameters": {"a": {}}}, {"name": "f", "description": "again", "parameters": {"a": {}}}]
    question = {"messages": XLAM["messages"][:1]}
    assert [t.description for t in read_swift(question | {"tools": json.dumps(twice)}).tools] == [""]
    other = [twice[0], {"name": "f", "parameters": {"b": {}}}]
    with pytest.raises(Refused, match="two tools"):
        read_swift(question | {"tools": json.dumps(other)})


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "calls"),
    [
        ("sgd_val.jsonl.gz", 500, 963),
        ("xlam_swift_val.json.gz", 150, None),
        ("sealtools_swift_val.json.gz", 200, None),
        ("bfcl_live_simple.jsonl.gz", 198, 0),
        ("bfcl_irrelevance.jsonl.gz", 180, 0),
    ],
)
def test_real_files_are_read_completely(name: str, rows: int, calls: int | None) -> None:
    loaded = load(DATA / name)
    assert (len(loaded.conversations), loaded.refused) == (rows, [])
    assert calls is None or loaded.counts()["calls"] == calls


@needs_data
def test_every_real_hermes_conversation_goes_to_swift_and_back() -> None:
    loaded = load(DATA / "hermes_sharegpt_sample.json")
    counts = loaded.counts()
    assert (counts["rows"], counts["with_tools"], counts["refused"]) == (270, 193, 0)
    assert sum(bool(c.calls) for c in loaded.conversations) == 141
    for read in loaded.conversations:
        swift = read_swift(write_swift(read), read.where)
        assert swift == read
        assert read_hermes(write_hermes(swift), read.where) == read


@needs_data
def test_real_slot_rows_are_written_as_they_were_read() -> None:
    import gzip

    with gzip.open(DATA / "sgd_val.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert [write_slots(c) for c in load(DATA / "sgd_val.jsonl.gz").conversations] == rows


@needs_data
def test_bfcl_answers_are_beside_the_questions() -> None:
    assert all(len(c.accepted or []) == 1 for c in load(DATA / "bfcl_simple.jsonl.gz").conversations)
    assert all(c.accepted == [] for c in load(DATA / "bfcl_irrelevance.jsonl.gz").conversations)
    assert load(DATA / "bfcl_parallel.jsonl.gz").conversations[0].accepted == [
        {"calculate_em_force": {"b_field": [5], "area": [2], "d_time": [4]}},
        {"calculate_em_force": {"b_field": [5], "area": [2], "d_time": [10]}},
    ]
