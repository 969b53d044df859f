"""The task tool-generate: conversations changed each time they are read, and calls of an untrained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.tool_calling import load_nonempty, write
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn
from trm_fast.tasks.tool_calling.data.formats.swift import write_swift
from trm_fast.tasks.tool_calling.data.variants import Variants
from trm_fast.tasks.tool_calling.generate.task import ToolGenerate, ToolGenerateConfig
from trm_fast.tasks.tool_calling.generate.transcript import REPLY, RowLimits, without_next_turn
from trm_fast.tasks.tool_calling.text.tokenizer import END, FIRST_BYTE, UNKNOWN, Characters
from trm_fast.training import apply_settings, make_config, read_preset

from ..rows import DATA, needs_data
from .mails import BARE, TOOL, conversation


def test_a_variant_exchanges_values_in_the_request_and_its_calls() -> None:
    rows = [
        conversation(Turn("user", f"Mail to {name} now"), Turn.of_call(Call("send", {"to": name})))
        for name in ("Ann Lee", "Bob Ray", "Cleo Fox", "Dan Moe", "Eve Poe")
    ]
    variants, rng, seen = Variants(rows, 1.0, 1.0), np.random.default_rng(0), set()
    for _ in range(20):
        changed = variants.of(rows[0], rng)
        value = changed.calls[0].arguments["to"]
        seen.add(value)
        assert changed.query == f"Mail to {value} now"
        assert changed.tools[0].name == "send"
    assert len(seen) > 3
    assert Variants(rows, 0.0, 0.0).of(rows[0], rng) == rows[0]


def test_examples_change_each_time_and_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    swift = [
        {"tools": json.dumps([TOOL.to_json(), BARE.to_json()]), "messages": [
            {"role": "user", "content": f"Mail to {name} now"},
            {"role": "tool_call", "content": json.dumps({"name": "send", "arguments": {"to": name}})},
        ]} for name in ("Ann Lee", "Bob Ray", "Cleo Fox", "Dan Moe", "Eve Poe", "Flo Zee")
    ]  # fmt: skip
    write(tmp_path / "mails.json", swift)
    keys = {"tokenizer_kind": "char", "seq_len": 128, "tools": 4, "arguments": 16, "exchanged": 1.0}
    task = ToolGenerate(ToolGenerateConfig.model_validate(keys))
    rows = task.dataset(DataConfig(source=str(tmp_path / "mails.json")), 0).train
    one, other, again = (task.augment(rows, np.random.default_rng(seed)) for seed in (0, 1, 0))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
    assert (one.inputs != other.inputs).any()
    assert (one.labels != rows.labels).any()
    np.testing.assert_array_equal(one.extra["row"], rows.extra["row"])


def test_token_dropout_hides_pieces_and_a_model_may_reply(tmp_path: Path) -> None:
    swift = [
        {"tools": json.dumps([TOOL.to_json()]), "messages": [
            {"role": "user", "content": f"Mail to {name} now"}, {"role": "assistant", "content": "I can't"},
        ]} for name in ("Ann Lee", "Bob Ray", "Cleo Fox")
    ]  # fmt: skip
    write(tmp_path / "mails.json", swift)
    keys = {"tokenizer_kind": "char", "vocab_size": 96, "seq_len": 128, "tools": 4, "arguments": 16, "exchanged": 0.0,
            "distractors": 0.0, "token_dropout": 0.5, "replies": True}  # fmt: skip
    task = ToolGenerate(ToolGenerateConfig.model_validate(keys))
    rows = task.dataset(DataConfig(source=str(tmp_path / "mails.json")), 0).train
    changed = task.augment(rows, np.random.default_rng(0)).inputs
    pieces = rows.inputs >= FIRST_BYTE
    assert 0.3 < (changed == UNKNOWN)[pieces].mean() < 0.7
    np.testing.assert_array_equal(changed[~pieces], rows.inputs[~pieces])

    class Replies:
        """A model that replies with the end at once."""

        steps = 1

        def incremental(self) -> Any:
            self.written = 0
            return self

        def extend(self, inputs: Any, extra: Any) -> Any:
            self.written += 1
            scores = np.full(task.vocab_size + task.seq_len, -9.0, dtype=np.float32)
            scores[[REPLY, FIRST_BYTE, END][min(self.written, 3) - 1]] = 0.0
            return scores

    conversation = Conversation((TOOL,), (Turn("user", "Mail to Ann"),))
    prediction, decoded = task.decode(Replies(), conversation)
    assert (prediction.decision, prediction.reply) == ("direct_answer", task.tokenizer.decode([FIRST_BYTE]).strip())
    assert decoded.symbols == [REPLY, FIRST_BYTE, END]


def test_the_size_of_a_tokenizer_comes_from_its_file(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    Characters(letters).save(tmp_path)
    sections: dict[str, Any] = {"task": {"name": "tool-generate", "tokenizer": str(tmp_path), "vocab_size": 4096}}
    config = make_config(sections, "test")
    assert config.task.model_dump()["vocab_size"] == FIRST_BYTE + 26
    assert config.model.vocab_size == RowLimits(384, 16, 96, 16, FIRST_BYTE + 26).first_position
    sections = config.model_dump(mode="json")
    Characters(letters + ".").save(tmp_path)
    assert make_config(sections, "run").task.model_dump()["vocab_size"] == FIRST_BYTE + 26  # a run keeps its own
    with pytest.raises(UserError, match="has no tokenizer"):
        make_config({"task": {"name": "tool-slots", "tokenizer": str(tmp_path / "none")}}, "test")


@needs_data
@pytest.mark.parametrize("name", ["xlam", "sealtools"])
def test_an_untrained_model_makes_valid_calls_of_offered_tools(name: str, tmp_path: Path) -> None:
    rows = load_nonempty(f"{DATA}/{name}_swift_val.json.gz").conversations[::8]
    write(tmp_path / "rows.json", [write_swift(row) for row in rows])
    settings = [
        f"data.source={tmp_path}/rows.json", "task.vocab_size=600", "task.most_tokens=60",
        "model.hidden_size=16", "model.num_heads=2", "model.inner_multiple=8", "model.max_supervision_steps=1",
        "model.num_layers=1",
    ]  # fmt: skip
    config = make_config(apply_settings(read_preset("tool-generate"), settings), "test")
    task = config.make_task()
    assert isinstance(task, ToolGenerate)
    task.dataset(DataConfig(source=config.data.source), 0)
    torch.manual_seed(0)
    model = TRM(config.model).eval()
    for row in rows[::4]:
        prediction, decoded = task.decode(model, without_next_turn(row))
        assert {call.name for call in prediction.calls} <= {tool.name for tool in row.tools}
        json.dumps(prediction.to_json())
        if decoded.symbols[-1] == END:
            assert prediction.calls


def test_a_removed_option_is_refused_unless_it_had_no_effect() -> None:
    assert ToolGenerateConfig.model_validate({"penalty": 0.0}) == ToolGenerateConfig()
    with pytest.raises(ValueError, match="penalty was removed"):
        ToolGenerateConfig.model_validate({"penalty": 0.5})
