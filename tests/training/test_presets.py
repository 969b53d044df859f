"""For each preset, shrunk: a recorded training step and a recorded solver step compute the same as calls."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.api import TRM
from trm_fast.inference.steps import run_steps
from trm_fast.models import ForwardOptions
from trm_fast.training import RunConfig, TrainStep, make_config, preset_names, read_preset
from trm_fast.training import step as step_module
from trm_fast.training.feed import Feed
from trm_fast.training.optimizers import OPTIMIZERS

from ..cli.test_tools import TOOL, slots
from ..tasks.arc_data import mirrored, write
from .recorder import Recorder
from .test_step import same

SMALL = {
    "hidden_size": 16, "num_heads": 2, "num_layers": 1, "inner_multiple": 8, "T_cycles": 2, "n_latent_steps": 1,
    "puzzle_embedding_size": 16,
}  # fmt: skip
CITIES = ["Rome", "Paris", "Oslo", "Lima", "Bonn", "Graz", "Hue", "Nice"]
ARC = {"training": {"a": mirrored(1), "b": mirrored(2)}, "evaluation": {"c": mirrored(3), "d": mirrored(4)}}
NESTED = [
    {"name": "sudoku", "size": 4, "givens": [8, 10], "train_count": 9, "test_count": 3},
    {"name": "symbols", "label": "copy", "length": 5, "symbols": 3, "train_count": 9, "test_count": 3},
]
# What is changed in the section of each task.
TASKS: dict[str, dict[str, Any]] = {
    "sudoku": {"givens": [38, 42], "search": None, "train_count": 9, "test_count": 3},
    "maze": {"size": 5, "distance": 2, "train_count": 9, "test_count": 3},
    "copy": {"train_count": 9, "test_count": 3},
    "grid": {},
    "sequence": {"train_count": 9, "test_count": 3},
    "multi": {"tasks": NESTED},
    "arc": {"canvas": 6, "augmentations": 2, "tasks": None},
    "tool-slots": {"tokenizer_kind": "char", "vocab_size": 80, "seq_len": 32, "variants": 0},
    "tool-select": {
        "sets": ["own"], "tokenizer_kind": "char", "vocab_size": 96, "seq_len": 48, "words": 24, "tools": 3,
        "arguments": 8, "bag": 8,
    },
    "tool-generate": {"sets": ["own"], "tokenizer_kind": "char", "vocab_size": 96, "seq_len": 400},
}  # fmt: skip


def swift(city: str) -> dict[str, Any]:
    call = {"name": "get_weather", "arguments": {"city": city}}
    messages = [
        {"role": "user", "content": f"Weather in {city}"},
        {"role": "tool_call", "content": json.dumps(call)},
    ]
    return {"tools": json.dumps([TOOL]), "messages": messages}


def shrunk(preset: str, folder: Path) -> RunConfig:
    sections = read_preset(preset)
    name = sections["task"]["name"]
    changes = dict(TASKS[name])
    if sections["task"].get("size", 9) < 9:
        changes.pop("givens", None)
    task = {key: value for key, value in {**sections["task"], **changes}.items() if value is not None}
    data: dict[str, Any] = {}
    if name == "arc":
        data = {"source": str(write(folder / "tasks.json", ARC))}
    elif name == "grid":
        (folder / "mine.csv").write_text("question,answer\n" + "".join(f"{n:012b},{n:012b}\n" for n in range(9)))
        data = {"source": str(folder / "mine.csv"), "holdout": 0.4}
    elif name == "tool-slots":
        rows = [slots(number, CITIES[number % 8]) for number in range(12)]
        (folder / "sgd_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"source": str(folder), "holdout": 0.3}
    elif name.startswith("tool"):
        for part, cities in (("train", CITIES[:6]), ("val", CITIES[6:])):
            write(folder / f"own_{part}.json", [swift(city) for city in cities])
        data = {"source": str(folder)}
    training = sections["training"] | {
        "batch_size": 4,
        "gradient_accumulation": 2,
        "warmup_steps": 0,
        "warmup_ratio": None,
        "depth": [],
        "learning_rate": 0.01,
    }
    model = {**sections["model"], **SMALL}
    model |= {name: 8 for name in ("latent_width", "answer_width") if name in model}
    if "head" in model:
        model["head"] = {key: value if isinstance(value, str) else 8 for key, value in model["head"].items()}
    return make_config({"task": task, "data": data, "model": model, "training": training}, preset)


@pytest.mark.parametrize("preset", preset_names())
def test_a_recording_computes_the_same_as_calls(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU, no shape depends on a mask.
    monkeypatch.setattr(step_module, "ForwardOptions", partial(ForwardOptions, static_shapes=True))
    config = shrunk(preset, tmp_path)
    task = config.make_task()
    data = task.dataset(config.data, 0)
    states, answers = [], []
    for runner in (None, Recorder):
        torch.manual_seed(0)
        model = TRM(config.model)
        training = config.training
        optimizer = OPTIMIZERS[training.optimizer](model.parameters(), 0.0, ema_decay=0.9)
        step = TrainStep(model, optimizer, training, Feed(task, data.train, 0, 4), parts=2, runner=runner and runner())
        for number in (1, 2, 3):
            minimum = step.pool.source.minimum_steps(number, 4, 0.3, 2)
            step.run(training.learning_rate_at(number), minimum)
        states.append([t.clone() for t in step.tensors()])
        arrays = {name: torch.from_numpy(array) for name, array in data.test.take(slice(3)).arrays().items()}
        inputs, _, ids = (arrays.pop(name) for name in ("inputs", "labels", "puzzle_ids"))
        model.eval()
        run = run_steps(model, inputs, 2, halt=False, puzzle_ids=ids, extra=arrays, runner=runner)
        # Answers after the end of a row, or without weight, have no meaning.
        ignored = (
            ~arrays["mask"] | (arrays["weights"] == 0) if config.model.head.kind == "text" else torch.tensor(False)
        )
        answers.append([result.answers.masked_fill(ignored, 0) for result in run])
    assert same(states[:1], states[1:])
    assert len(answers[0]) == 2
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)
