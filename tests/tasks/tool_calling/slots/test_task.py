"""The task tool-slots: labels by hand, values from answers, and metrics of answers made up by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.labels import SlotKind
from trm_fast.tasks.base import IGNORE, DataConfig, Examples
from trm_fast.tasks.tool_calling import Call, Conversation, problems, write
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.slots.fields import FIRST_VALUE, Fields
from trm_fast.tasks.tool_calling.slots.task import ToolSlots, ToolSlotsConfig

from ..rows import DATA, SLOTS, needs_data
from .cities import CHAR, ROWS, row


def make_task(tmp_path: Path, rows: list[dict[str, Any]] = ROWS, **config: Any) -> tuple[ToolSlots, Any]:
    path = tmp_path / "sgd_train.jsonl"
    write(path, rows)
    task = ToolSlots(ToolSlotsConfig(**{**CHAR, **config}))
    return task, task.dataset(DataConfig(source=str(path), holdout=0.2), 0)


def encoded(task: ToolSlots, *rows: dict[str, Any]) -> Examples:
    conversations = [read_slots(each) for each in rows]
    return task.examples([task.encode_row(conversation) for conversation in conversations], conversations)


def test_labels_by_hand(tmp_path: Path) -> None:
    task, data = make_task(tmp_path)
    fields = task.fields
    assert fields.arguments == ("city", "unit")
    assert fields.slots == ("city", "unit")
    assert fields.values[1] == ("C", "F")
    text = "weather in Rome now"
    rows = encoded(task, row(0, "Rome"))
    begin = 2 + text.index("Rome")  # behind <begin> and <user>
    kinds, starts, ends = rows.labels[0, 2:].reshape(3, 4).tolist()
    assert rows.labels[0, :2].tolist() == [1, 0]
    assert kinds == [SlotKind.SPAN, FIRST_VALUE, SlotKind.SPAN, SlotKind.NONE]
    assert starts == [begin, IGNORE, begin, IGNORE]
    assert ends == [begin + 3, IGNORE, begin + 3, IGNORE]
    assert len(data.train) + len(data.test) == len(ROWS)


def test_dontcare_and_values_without_a_span(tmp_path: Path) -> None:
    task, _ = make_task(tmp_path)
    rows = encoded(task, row(0, "Rome", slots={"city": "dontcare", "unit": "kelvin"}))
    assert rows.labels[0, 2:].reshape(3, 4)[0, 2:].tolist() == [SlotKind.DONTCARE, SlotKind.OTHER]


def test_an_argument_is_written_as_the_tool_expects(tmp_path: Path) -> None:
    task, _ = make_task(tmp_path)
    conversation = row(
        0, "Rome", history=[{"role": "user", "content": "rome in c"}], slots={"city": "rome", "unit": "c"}
    )
    rows = encoded(task, conversation)
    kinds = rows.labels[0, 2:].reshape(3, 4)[0].tolist()
    spans = [SlotKind.SPAN] * 3
    assert kinds == [
        SlotKind.OTHER,
        *spans,
    ]  # "c" is the enum's C; "rome" is not a known value, and Rome is not in the dialogue
    call = task.fields.call(rows.labels[0], rows.inputs[0], task.tokenizer)
    assert call == Call("get_weather", {"city": None, "unit": "C"})
    assert task.fields.slot_values(rows.labels[0], rows.inputs[0], task.tokenizer) == {"city": "rome", "unit": "c"}


def test_answers_become_the_call_and_the_slots(tmp_path: Path) -> None:
    task, _ = make_task(tmp_path)
    conversation = read_slots(row(0, "Đà Nẵng"))
    rows = encoded(task, row(0, "Đà Nẵng"))
    question = task.ask(conversation)
    prediction = task.prediction(question, rows.labels[0], conversation.tools)
    assert prediction.calls == (Call("get_weather", {"city": "Đà Nẵng", "unit": "C"}),)
    assert prediction.problems == ()
    assert prediction.slots == {"city": "Đà Nẵng"}
    assert task.prediction(question, rows.labels[0], ()).decision == "direct_answer"
    assert json.loads(task.format(question, rows.labels[0])) == prediction.to_json()


def test_metrics_of_answers_made_by_hand(tmp_path: Path) -> None:
    task, _ = make_task(tmp_path)
    examples = encoded(
        task, row(0, "Rome"), row(1, "Oslo"), row(2, "Hue", "direct_answer"), row(3, "Paris", "direct_answer")
    )
    perfect = task.metrics(examples, examples.labels)
    for name in ("decision_f1", "decision_accuracy", "tool_accuracy", "slot_presence_accuracy", "slot_span_exact"):
        assert perfect[name] == 1
    assert (perfect["call_exact"], perfect["schema_valid"], perfect["argument_f1"]) == (1, 1, 1)

    answers = np.where(examples.labels == IGNORE, 0, examples.labels)
    answers[0, 0] = 0  # a call missed
    answers[2, 0], answers[2, 2] = 1, SlotKind.NONE  # a call too many, without its required city
    answers[3, 4] = SlotKind.NONE  # a missed slot
    answers[1, 2 + 4] += 1  # the argument's span begins late: "slo"
    metrics = task.metrics(examples, answers)
    assert [metrics[n] for n in ("true_calls", "missed_calls", "false_calls", "true_answers")] == [1, 1, 1, 1]
    assert (metrics["decision_accuracy"], metrics["decision_f1"]) == (0.5, 0.5)
    assert metrics["decision_f1_baseline"] == pytest.approx(2 / 3)  # always a call: precision 1/2, recall 1
    assert metrics["slot_presence_accuracy"] == 7 / 8
    assert metrics["slot_span_exact"] == 3 / 4
    assert metrics["call_exact"] == 0
    assert metrics["schema_valid"] == 0.5
    assert metrics["argument_f1"] == pytest.approx(2 * 1 / (2 + 4))  # only the unit of the second call is right
    assert metrics["decision_f1_low"] <= metrics["decision_f1"] <= metrics["decision_f1_high"]
    assert len(task.report(metrics)) == 3


def test_an_unknown_tool_is_named(tmp_path: Path) -> None:
    task, _ = make_task(tmp_path)
    other = read_slots(SLOTS)
    other = replace(other, tools=(replace(other.tools[0], name="get_rain"),), call=None)
    with pytest.raises(UserError, match="get_rain"):
        task.ask(other)
    with pytest.raises(UserError, match="no turns"):
        task.ask(Conversation((), ()))


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ('{"history": []}', "history: is empty"), ("{", "the row")]
)
def test_malformed_questions(tmp_path: Path, text: str, message: str) -> None:
    task, _ = make_task(tmp_path)
    with pytest.raises(UserError, match=message):
        task.parse(text)


def test_cut_rows_are_counted_and_unusable_data_explained(tmp_path: Path) -> None:
    _, data = make_task(tmp_path, [*ROWS, row(99, "Rome", history=[{"role": "user", "content": "x " * 10_000}])])
    assert any("1 of" in note and "longer than 40 tokens" in note for note in data.notes)
    with pytest.raises(UserError, match="give --data"):
        ToolSlots().dataset(DataConfig(), 0)
    with pytest.raises(UserError, match="cannot read"):
        ToolSlots().dataset(DataConfig(source=str(tmp_path / "none.jsonl")), 0)
    write(tmp_path / "bad.jsonl", [{"history": []}])
    with pytest.raises(UserError, match=r"bad\.jsonl:1: history: is empty"):
        ToolSlots().dataset(DataConfig(source=str(tmp_path / "bad.jsonl")), 0)


def test_a_saved_tool_whose_definitions_are_lost_can_be_read() -> None:
    parameters = {"type": "object", "properties": {"who": {"$ref": "#/$defs/Person"}}, "required": ["who"]}
    saved = {"tools": [{"type": "function", "function": {"name": "greet", "parameters": parameters}}], "arguments": []}
    fields = Fields.from_json(saved | {"slots": [], "values": [], "frequent": {}})
    assert problems(Call("greet", {"who": {"name": "Ann"}}), fields.tools) == []
    assert problems(Call("greet", {}), fields.tools) == ["who is missing"]


def test_results_are_read_in_part(tmp_path: Path) -> None:
    result = {"role": "tool_response", "content": "sunny all day long"}
    conversation = read_slots(row(0, "Rome", history=[{"role": "user", "content": "weather in Rome now"}, result]))
    lengths = []
    for tokens in (5, 0):
        task, _ = make_task(tmp_path, response_tokens=tokens)
        lengths.append(int(task.ask(conversation).extra["mask"].sum()))
    assert lengths[0] - lengths[1] == 5


def test_word_dropout_leaves_values_alone(tmp_path: Path) -> None:
    task, data = make_task(tmp_path, word_dropout=0.9)
    changed = task.augment(data.train, np.random.default_rng(0))
    kinds, starts, ends = data.train.labels[:, 2:].reshape(len(data.train), 3, -1).transpose(1, 0, 2)
    assert (changed.inputs != data.train.inputs).mean() > 0.1
    for n, field in np.argwhere(kinds == SlotKind.SPAN):
        span = slice(starts[n, field], ends[n, field] + 1)
        assert (changed.inputs[n, span] == data.train.inputs[n, span]).all()


@needs_data
@pytest.mark.slow
def test_labels_of_real_rows_give_their_values() -> None:
    task = ToolSlots(ToolSlotsConfig(variants=0))
    pytest.importorskip("sentencepiece")
    data = task.dataset(DataConfig(source=str(DATA)), 0)
    assert (len(data.train), len(data.test)) == (3000, 500)
    metrics = task.metrics(data.test, data.test.labels)
    assert (metrics["decision_f1"], metrics["tool_accuracy"], metrics["slot_span_exact"]) == (1, 1, 1)
    # Values that are neither spans nor known values limit this model on these rows.
    assert metrics["slot_value_exact"] > 0.95
    assert metrics["call_exact"] > 0.95
    for name, value in metrics.items():
        assert value >= 0, name
