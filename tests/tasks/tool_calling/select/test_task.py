"""The task tool-select end to end on a small file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.models import TRMModel
from trm_fast.tasks.base import IGNORE, DataConfig
from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.select.task import ToolSelect, ToolSelectConfig
from trm_fast.tasks.tool_calling.text.tokenizer import UNKNOWN
from trm_fast.training import make_config, read_preset

from ..weather import PING, WEATHER, request


def written(folder: Path) -> None:
    rows = [request(f"Weather in {c} please", (WEATHER, PING), Call("get_weather", {"city": c})) for c in "ABCDEFGH"]
    for part, some in (("train", rows[:6]), ("val", rows[6:])):
        out = [
            {"tools": json.dumps([t.to_json() for t in r.tools]),
             "messages": [{"role": t.role, "content": t.text} for t in r.turns]} for r in some
        ]  # fmt: skip
        (folder / f"own_{part}.json.gz").write_bytes(gzip.compress(json.dumps(out).encode()))


def small_task() -> ToolSelect:
    return ToolSelect(ToolSelectConfig(
        sets=["own"], tokenizer_kind="char", vocab_size=96, seq_len=48, words=24, tools=3, arguments=8, bag=8,
    ))  # fmt: skip


@pytest.mark.parametrize(("size", "millions"), [("tiny", 2.0), ("small", 32.0), ("base", 99.0), ("large", 329.0)])
def test_presets_have_the_documented_sizes(size: str, millions: float) -> None:
    config = make_config(read_preset(f"tool-select-{size}"), size)
    assert TRMModel.count_parameters(config.model) / 1e6 == pytest.approx(millions, rel=0.005)


def test_a_classifier_knows_the_tools_called_in_training_and_reports_others(tmp_path: Path) -> None:
    written(tmp_path)
    task = ToolSelect(small_task().config.model_copy(update={"tool_choice": "classifier", "known_tools": 2}))
    data_set = task.dataset(DataConfig(source=str(tmp_path)), seed=0)
    assert data_set.test.extra["tool_ids"].tolist() == [[1, 0, 0]] * 2  # training calls get_weather only
    assert task.model_keys(DataConfig())["head"]["known_tools"] == 2
    answers = np.zeros_like(data_set.test.labels)
    assert task.metrics(data_set.test, answers)["known"] == 0.5
    prediction = task.prediction(task.ask(request("Hi", (PING,))), answers[0], (PING,))
    assert prediction.problems == ("ping was not called in training: this classifier never calls it",)
    narrow = ToolSelect(task.config.model_copy(update={"known_tools": 0}))
    with pytest.raises(UserError, match=r"more than task\.known_tools = 0; raise it to at least"):
        narrow.dataset(DataConfig(source=str(tmp_path)), seed=0)


def test_the_task_end_to_end(tmp_path: Path) -> None:
    written(tmp_path)
    task, data = small_task(), DataConfig(source=str(tmp_path))
    data_set = task.dataset(data, seed=0)
    assert len(data_set.test) == 2
    again = small_task().dataset(data, seed=0)
    for name, array in data_set.train.arrays().items():
        np.testing.assert_array_equal(array, again.train.arrays()[name])
    right = data_set.test.labels.copy()
    right[:, :3] = np.where(right[:, :3] == 1, 900, -900)
    perfect = task.metrics(data_set.test, right)
    assert perfect["call_exact"] == perfect["tool_accuracy"] == perfect["argument_f1"] == perfect["schema_valid"] == 1
    assert bool(task.right(data_set.test.labels, right)[data_set.test.labels != IGNORE].all())

    torch.manual_seed(0)
    config = make_config(
        {"task": task.config.model_dump(), "data": {"source": str(tmp_path)},
         "model": {"mixing": "attention", "hidden_size": 16, "num_heads": 2, "inner_multiple": 8, "T_cycles": 1}}, "x",
    )  # fmt: skip
    solver = Solver(TRM(config.model), task)
    task.save_assets(tmp_path)
    prediction, answer = task.predict(solver, request("Weather in Rome"))
    other = small_task()
    other.load_assets(tmp_path)
    assert other.predict(replace(solver, task=other), request("Weather in Rome"))[0] == prediction
    assert 0 <= answer.confidence <= 1
    with pytest.raises(UserError, match="no tools"):
        task.ask(request("Hi", ()))
    with pytest.raises(UserError, match="--tools"):
        task.known_tools()
    with pytest.raises(UserError, match="trm-fast call --tools"):
        task.parse("just words")


def test_token_dropout_makes_tokens_unknown_except_the_first(tmp_path: Path) -> None:
    written(tmp_path)
    task = ToolSelect(small_task().config.model_copy(update={"token_dropout": 0.5}))
    rows = task.dataset(DataConfig(source=str(tmp_path)), seed=0).train
    changed = task.augment(rows, np.random.default_rng(0)).inputs
    words = rows.inputs > UNKNOWN
    assert 0.3 < (changed == UNKNOWN)[words].mean() < 0.6
    np.testing.assert_array_equal(changed[:, 0], rows.inputs[:, 0])
    whole = ToolSelect(task.config.model_copy(update={"token_dropout": 0.0}))
    assert whole.augment(rows, np.random.default_rng(0)) is rows
