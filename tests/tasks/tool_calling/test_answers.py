"""Conversations whose last user turn has no answer: none of them teaches or measures anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Turn
from trm_fast.tasks.tool_calling.generate.task import ToolGenerate, ToolGenerateConfig
from trm_fast.tasks.tool_calling.select.task import ToolSelect, ToolSelectConfig
from trm_fast.tasks.tool_calling.slots.task import ToolSlots, ToolSlotsConfig

from .rows import SLOTS, WEATHER

USER, REPLY = ({"role": role, "content": f"{role} in Rome"} for role in ("user", "assistant"))
CALL = {"role": "tool_call", "content": '{"name": "get_weather", "arguments": {"city": "Rome"}}'}


def chat(*messages: dict[str, str]) -> dict[str, Any]:
    return {"tools": json.dumps([WEATHER]), "messages": list(messages)}


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("u", False), ("ua", True), ("uc", True), ("ucr", True), ("uau", False), ("ucrau", False), ("us", False),
        ("s", False), ("a", True), ("", False),
    ],
)  # fmt: skip
def test_an_answer_follows_the_last_user_turn(turns: str, expected: bool) -> None:
    roles = {"u": "user", "a": "assistant", "c": "tool_call", "r": "tool_response", "s": "system"}
    conversation = Conversation((), tuple(Turn(roles[turn], "") for turn in turns))
    assert conversation.has_answer is expected


def test_rows_without_an_answer_are_left_out_of_training_and_test(tmp_path: Path) -> None:
    rows = [chat(USER, CALL), chat(USER), chat(USER, REPLY, USER), chat(USER, REPLY)]
    source, test = (written(tmp_path / name, rows) for name in ("train.jsonl", "test.jsonl"))
    data = DataConfig(source=source, test=test)
    select = ToolSelect(ToolSelectConfig(tokenizer_kind="char", vocab_size=96, variants=0, uncalled=0))
    dataset = select.dataset(data, 0)
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    assert [note.partition(" (")[0] for note in dataset.notes] == [
        f"training data: 2 of 4 rows have no answer and are left out; the first: {source}:2",
        f"test data: 2 of 4 rows have no answer and are left out; the first: {test}:2",
    ]
    examples, left_out, notes = select.read_counted(test)
    assert (len(examples), left_out) == (2, {"refused": 0, "without_answer": 2})
    assert notes[0].startswith(f"{test}: 2 of 4 rows have no answer")
    # The model that writes learns from each turn of the assistant.
    generate = ToolGenerate(ToolGenerateConfig(tokenizer_kind="char", vocab_size=300))
    dataset = generate.dataset(data, 0)
    assert (len(dataset.train), len(dataset.test)) == (3, 2)
    with pytest.raises(UserError, match="1 of 1 rows have no answer"):
        select.dataset(DataConfig(source=written(tmp_path / "asked.jsonl", [chat(USER)]), holdout=0), 0)


def test_slots_need_a_decision(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", [SLOTS, chat(USER, REPLY), {"x": 1}])
    task = ToolSlots(ToolSlotsConfig(tokenizer_kind="char", vocab_size=96, variants=0))
    dataset = task.dataset(DataConfig(source=source, holdout=0), 0)
    assert len(dataset.train) == 1
    assert f"the first: {source}:2 (an answer is the row's decision)" in dataset.notes[-1]
    examples, left_out, notes = task.read_counted(source)
    assert (len(examples), left_out) == (1, {"refused": 1, "without_answer": 1})
    assert len(notes) == 2
