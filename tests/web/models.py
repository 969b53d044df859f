"""Small models that do not ship, each trained for a few steps: one that calls a tool, and one for ARC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trm_fast.training import Trainer, apply_settings, make_config, read_preset

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
CITIES = ("Rome", "Paris", "Oslo", "Lima", "Bonn")
PAIR = {"input": [[1, 0, 2], [0, 3, 0]], "output": [[0, 3, 0], [1, 0, 2]]}
ARC_TASKS = {"one": {"train": [PAIR, PAIR], "test": [PAIR]}}


def dialogue_row(number: int) -> dict[str, Any]:
    """A row of a dialogue that ends with a call or with an answer."""
    calls, city = number % 2 == 0, CITIES[number % len(CITIES)]
    return {
        "id": f"{number}:0:x", "tools": [TOOL], "content": "" if calls else "Hello.", "slots": {"city": city},
        "history": [{"role": "user", "content": f"weather in {city}" if calls else f"greetings from {city}"}],
        "decision": "tool_call" if calls else "direct_answer",
        "tool": {"name": "get_weather", "arguments": {"city": city}} if calls else {},
    }  # fmt: skip


def train_caller(folder: Path, *settings: str) -> Path:
    """The run folder of a small tool-calling model."""
    (folder / "sgd_train.jsonl").write_text("".join(json.dumps(dialogue_row(i)) + "\n" for i in range(20)))
    small = ["task.tokenizer_kind=char", "task.vocab_size=80", "task.seq_len=32", "task.variants=0"]
    small += ["model.hidden_size=16", "model.inner_multiple=16", "training.steps=4", "training.batch_size=8"]
    small += [f"data.source={folder}", "data.holdout=0.2"]
    return _train("tool-slots", [*small, *settings], folder / "run")


def train_arc(folder: Path) -> Path:
    """The run folder of a small model of one ARC task; ``tasks.json`` beside it holds the task."""
    data = folder / "tasks.json"
    data.write_text(json.dumps(ARC_TASKS))
    small = ["task.canvas=4", "task.augmentations=7", "task.colors=false", "task.tasks=[one]", "model.hidden_size=16"]
    small += ["model.puzzle_embedding_size=16", "training.steps=4", "training.batch_size=8", f"data.source={data}"]
    return _train("arc-small", small, folder / "arc")


def _train(preset: str, settings: list[str], out: Path) -> Path:
    Trainer(make_config(apply_settings(read_preset(preset), settings), "test"), out).train()
    return out
