"""Files: rows refused with their line, sources that cannot be read, splits that share no dialogue."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling import load, load_nonempty, refusal_note, split_counts, split_rows, write
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.data.loading import find_files

from ..rows import SLOTS, XLAM


def test_a_bad_line_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(SLOTS), "{oops", "", json.dumps({"x": 1}), json.dumps(SLOTS)]))
    loaded = load(path)
    assert [c.where for c in loaded.conversations] == [f"{path}:1", f"{path}:5"]
    assert [(r.where, r.field) for r in loaded.refused] == [(f"{path}:2", "row"), (f"{path}:4", "row")]
    assert "2 of 4 rows" in refusal_note(loaded, path)[0]


def test_rows_of_a_list_are_named_by_line_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[\n" + json.dumps(XLAM) + ",\n" + json.dumps({"messages": "no"}) + "\n]")
    loaded = load(path)
    assert [c.where for c in loaded.conversations] == [f"{path}:2 (row 1)"]
    assert loaded.refused[0].where == f"{path}:3 (row 2)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"[]", "has no rows"),
        (b"[1, ", "ends without a \\]"),
        (b"[{}]\n[{}]", "after the JSON list there is more"),
        (b"[{]", "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_missing_file_damaged_gzip_and_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "none.json")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"{}")[:12])
    with pytest.raises(UserError, match="gzip"):
        load(tmp_path / "x.jsonl.gz")
    (tmp_path / "y.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"y\.jsonl:1: row: has none of"):
        load_nonempty(tmp_path / "y.jsonl")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [SLOTS, SLOTS])
    first = (tmp_path / name).read_bytes()
    assert [c.slots for c in load(tmp_path / name).conversations] == [SLOTS["slots"]] * 2
    write(tmp_path / name, [SLOTS, SLOTS])
    assert (tmp_path / name).read_bytes() == first


def test_a_dialogue_is_on_one_side_of_the_split() -> None:
    rows = [read_slots(SLOTS | {"id": f"{d}:{turn}:call"}) for d in range(10) for turn in range(3)]
    train, held = split_rows(rows, 0.2, 0)
    assert (len(train), len(held)) == (24, 6)
    assert not {c.id.split(":")[0] for c in train} & {c.id.split(":")[0] for c in held}
    assert split_rows(rows, 0.2, 0) == (train, held)
    with pytest.raises(UserError, match="one dialogue"):
        split_rows(rows[:3], 0.5, 0)


def test_a_split_by_counts_has_these_counts() -> None:
    rows = [read_slots(SLOTS | {"id": f"{d}:{turn}:call"}) for d in range(10) for turn in range(3)]
    dialogues = lambda part: {c.id.split(":")[0] for c in part}  # noqa: E731
    for train, validation in ((20, 5), (None, 4), (6, None), (21, 9)):
        parts = split_counts(rows, train, validation, 0)
        assert len(parts[1]) == (24 if validation is None else validation)
        if train is not None:
            assert len(parts[0]) == train
        assert not dialogues(parts[0]) & dialogues(parts[1])
        assert split_counts(rows, train, validation, 0) == parts
    assert len(split_counts(rows, None, 4, 0)[0]) == 24  # two dialogues of three rows hold the four
    with pytest.raises(UserError, match="leave none for training"):
        split_counts(rows, None, 30, 0)
    with pytest.raises(UserError, match="too few"):
        split_counts(rows, 30, 1, 0)
    with pytest.raises(UserError, match="give only 24 for training beside 4"):
        split_counts(rows, 26, 4, 0)


def test_find_takes_the_named_set_of_a_folder(tmp_path: Path) -> None:
    for name in ("sgd_train.jsonl", "sgd_val.jsonl", "xlam_train.json"):
        (tmp_path / name).write_text("")
    train, held = find_files(str(tmp_path), "sgd")
    assert (Path(train).name, Path(held or "").name) == ("sgd_train.jsonl", "sgd_val.jsonl")
    assert find_files(str(tmp_path / "xlam_train.json"), "sgd") == (str(tmp_path / "xlam_train.json"), None)
    with pytest.raises(UserError, match="glaive_train"):
        find_files(str(tmp_path), "glaive")


TWICE = '{"city": "Rome", "city": "Oslo"}'
CALL_TWICE = f'{{"name": "get_weather", "arguments": {TWICE}}}'
TURNS_WITH_CALLS = {
    "arguments as text": {"tool_calls": [{"function": {"name": "get_weather", "arguments": TWICE}}]},
    "a function_call": {"function_call": {"name": "get_weather", "arguments": TWICE.replace('"', "'")}},
    "a tag": {"content": f"<tool_call>\n{CALL_TWICE}\n</tool_call>"},
    "a tag with a literal": {"content": "<tool_call>" + CALL_TWICE.replace('"', "'") + "</tool_call>"},
    "Mistral": {"content": f"[TOOL_CALLS] [{CALL_TWICE}]"},
    "Mistral with a name": {"content": f"[TOOL_CALLS]get_weather[ARGS]{TWICE}"},
    "Llama": {"content": f"<|python_tag|>{CALL_TWICE}"},
    "a function": {"content": f"<function=get_weather>{TWICE}</function>"},
    "Glaive": {"content": f'<functioncall> {{"name": "get_weather", "arguments": \'{TWICE}\'}}'},
    "brackets": {"content": "[get_weather(city='Rome', city='Oslo')]"},
    "a number that is not finite": {"tool_calls": [{"name": "get_weather", "args": '{"city": NaN}'}]},
    "infinity": {"function_call": {"name": "get_weather", "arguments": {"city": [float("-inf")]}}},
}


@pytest.mark.parametrize("message", TURNS_WITH_CALLS.values(), ids=TURNS_WITH_CALLS)
def test_calls_that_are_not_one_json_value_are_refused(tmp_path: Path, message: dict[str, Any]) -> None:
    """Python's own reader would keep the last of two values, and would write NaN as no JSON is."""
    tools = [{"name": "get_weather", "parameters": {"city": {}}}]
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", **message}], "tools": tools}
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat))
    loaded = load(tmp_path / "chat.jsonl")
    assert not loaded.conversations
    assert re.search(r"occurs twice|is there twice|not finite", loaded.refused[0].reason)


def test_columns_with_a_key_twice_are_refused(tmp_path: Path) -> None:
    tool = '[{"name": "f", "parameters": {"properties": {"a": {"type": "string"}, "a": {"type": "integer"}}}}]'
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}], "tools": tool},
        {"query": "Hi", "tools": [{"name": "get_weather", "parameters": {"city": {}}}], "answers": f"[{CALL_TWICE}]"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [r.field for r in load(tmp_path / "rows.json").refused] == ["tools", "answers"]
