"""Runs of tool-slots: they learn, resume exactly, and do not need their data afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.interchange import locate
from trm_fast.models import TRMConfig
from trm_fast.tasks.tool_calling import Conversation, Turn, write
from trm_fast.tasks.tool_calling.slots.task import ToolSlots
from trm_fast.training import Trainer, make_config, read_preset

from .cities import CHAR, ROWS, row


def small(tmp_path: Path, steps: int, checkpoint_every: int = 7) -> Any:
    write(tmp_path / "sgd_train.jsonl", ROWS)
    sections = {
        "task": {"name": "tool-slots", **CHAR, "word_dropout": 0.0},
        "data": {"source": str(tmp_path), "holdout": 0.2},
        "model": {
            "mixing": "attention", "positions": "rope", "hidden_size": 32, "num_heads": 2, "inner_multiple": 32,
            "T_cycles": 1, "n_latent_steps": 1, "max_supervision_steps": 2,
        },
        "training": {
            "steps": steps, "batch_size": 16, "gradient_accumulation": 2, "learning_rate": 3e-3, "warmup_steps": 5,
            "weight_decay": 0.1, "ema_decay": 0.9, "checkpoint_every": checkpoint_every, "exploration": 0.0,
        },
    }  # fmt: skip
    return make_config(sections, "test")


@pytest.mark.slow
def test_a_model_learns_is_saved_and_answers(tmp_path: Path) -> None:
    trainer = Trainer(small(tmp_path, 120, checkpoint_every=120), tmp_path / "run")
    summary = trainer.train()
    assert summary["evaluation"]["decision_f1"] == 1
    assert summary["evaluation"]["slot_span_exact"] > 0.6
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        located = locate(str(folder))
        assert isinstance(located.task, ToolSlots)
        request = Conversation(located.task.known_tools(), (Turn("user", "weather in Oslo now"),))
        question = located.task.ask(request)
        answer = Solver(located.model, located.task).solve(question)
        assert located.task.prediction(question, answer.raw, request.tools).decision == "tool_call"


def test_a_run_stopped_within_an_epoch_resumes_exactly(tmp_path: Path) -> None:
    whole = Trainer(small(tmp_path, 11), tmp_path / "whole")
    whole.train()
    Trainer(small(tmp_path, 7), tmp_path / "parts").train()
    again = Trainer.resume(tmp_path / "parts", config=small(tmp_path, 11))
    again.train()
    for name, tensor in whole.model.state_dict().items():
        assert bool((tensor == again.model.state_dict()[name]).all()), name


def test_a_trained_model_does_not_need_its_data(tmp_path: Path) -> None:
    Trainer(small(tmp_path, 2), tmp_path / "run").train()
    (tmp_path / "sgd_train.jsonl").unlink()
    assert locate(str(tmp_path / "run")).task.vocab_size == CHAR["vocab_size"]


def test_presets_fit_the_data(tmp_path: Path) -> None:
    write(tmp_path / "sgd_train.jsonl", ROWS)
    config = make_config(read_preset("tool-slots") | {"data": {"source": str(tmp_path)}}, "tool-slots")
    head = config.model.head.model_dump()
    assert (head["kind"], head["num_tools"], head["num_fields"]) == ("slots", 1, 4)
    assert isinstance(TRM(TRMConfig(**config.model.model_dump())), TRM)


class TestFineTuning:
    def trained(self, tmp_path: Path) -> TRM:
        (tmp_path / "first").mkdir()
        Trainer(small(tmp_path / "first", 1), tmp_path / "run").train()
        return locate(str(tmp_path / "run")).model

    def other(self, tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
        """A run on other rows, whose characters would get other numbers."""
        (tmp_path / "other").mkdir()
        config = small(tmp_path / "other", 1)
        write(tmp_path / "other" / "sgd_train.jsonl", rows)
        return config

    def test_the_tokenizer_is_the_models(self, tmp_path: Path) -> None:
        model = self.trained(tmp_path)
        rows = [row(i, city) for i, city in enumerate(["Zürich", "Xi'an", "Quito", "Zadar"] * 5)]
        tuned = Trainer(self.other(tmp_path, rows), tmp_path / "tuned", init=model)
        assert isinstance(model.task, ToolSlots)
        assert isinstance(tuned.task, ToolSlots)
        assert tuned.task.tokenizer.same_tokens(model.task.tokenizer)
        fresh = Trainer(tuned.config, tmp_path / "fresh")
        assert isinstance(fresh.task, ToolSlots)
        assert not fresh.task.tokenizer.same_tokens(tuned.task.tokenizer)

    def test_as_many_other_tools_are_refused(self, tmp_path: Path) -> None:
        model = self.trained(tmp_path)
        renamed = json.loads(json.dumps(ROWS).replace("get_weather", "get_forecast"))
        with pytest.raises(UserError, match=r"tools differ .* number 1 is get_forecast and not get_weather"):
            Trainer(self.other(tmp_path, renamed), tmp_path / "tuned", init=model)

    def test_another_tokenizer_is_refused(self, tmp_path: Path) -> None:
        model = self.trained(tmp_path)
        fresh = Trainer(self.other(tmp_path, [row(i, "Quito") for i in range(20)]), tmp_path / "fresh")
        fresh.train()
        config = small(tmp_path / "first", 1)
        task = config.task.model_copy(update={"tokenizer": str(tmp_path / "fresh")})
        with pytest.raises(UserError, match="is not the tokenizer of the model that is fine-tuned"):
            Trainer(config.model_copy(update={"task": task}), tmp_path / "tuned", init=model)
