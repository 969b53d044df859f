"""The presets made small: gradients reach all parameters through all applications; a stopped run resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.tasks.tool_calling import write
from trm_fast.training import RunConfig, Trainer, apply_settings, checkpoint, make_config, read_preset

from .rows import WEATHER

PING = {"type": "function", "function": {"name": "ping", "description": "Pings the city", "parameters": {}}}
SMALL = [
    "model.hidden_size=16", "model.num_heads=2", "model.inner_multiple=8", "task.tokenizer_kind=char",
    "task.vocab_size=96", "training.batch_size=4", "training.gradient_accumulation=2", "training.log_every=3",
    "training.warmup_steps=2", "training.checkpoint_every=4", "training.eval_count=2", "training.schedule_steps=9",
    "training.warmup_ratio=null",
]  # fmt: skip
PRESETS = {
    "tool-select-tiny": ["task.seq_len=64", "task.sets=[own]", "task.words=24", "task.tools=3", "task.arguments=8"],
    "tool-select-small": [
        "task.seq_len=64",
        "task.sets=[own]",
        "task.words=24",
        "task.tools=3",
        "task.arguments=8",
        "task.tool_choice=classifier",
        "model.num_layers=2",
    ],
    "tool-generate": [
        "task.seq_len=64",
        "task.sets=[own]",
        "task.tools=3",
        "task.arguments=8",
        "task.generate_count=1",
        "task.most_tokens=8",
    ],
    "tool-calling": [
        "task.seq_len=64",
        "task.sets=[own]",
        "task.tools=3",
        "task.arguments=8",
        "task.most_tokens=8",
        "task.generate_count=1",
        "model.max_supervision_steps=2",
        "training.eval_every=0",
    ],
    "tool-slots": ["task.seq_len=48"],
    "tool-slots-paper": ["task.seq_len=48", "model.max_supervision_steps=2", "training.eval_every=4"],
}
CITIES = ("Rome", "Oslo", "New York", "Hue", "Lima", "Kyiv", "Bonn", "Cairo", "Nice", "Perth")


def small(preset: str, folder: Path, *settings: str) -> RunConfig:
    """The preset with ten short conversations, of which the last three are for evaluation."""
    calls = [{"name": "get_weather", "arguments": {"city": city}} for city in CITIES]
    swift = [
        {"tools": json.dumps([WEATHER, PING]), "messages": [
            {"role": "user", "content": f"The weather in the city {CITIES[i]}, and {'please ' * (i % 3)}"},
            {"role": "tool_call", "content": json.dumps(call)},
        ]} for i, call in enumerate(calls)
    ]  # fmt: skip
    slots = [
        {"id": f"{i}:0", "tools": [WEATHER, PING], "history": [{"role": "user", "content": f"Weather in {city}"}],
         "decision": "tool_call" if i % 3 else "direct_answer", "tool": call if i % 3 else {},
         "slots": {"city": city, "unit": ""}, "content": "" if i % 3 else "Sunny"}
        for i, (city, call) in enumerate(zip(CITIES, calls, strict=True))
    ]  # fmt: skip
    for name, rows in (("own", swift), ("sgd", slots)):
        for part, some in (("train", rows[:7]), ("val", rows[7:])):
            write(folder / (f"{name}_{part}.jsonl" if name == "sgd" else f"{name}_{part}.json"), some)
    extra = [f"data.source={folder}", *SMALL, *PRESETS[preset], *settings]
    return make_config(apply_settings(read_preset(preset), extra), preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_reach_every_parameter_and_every_application(preset: str, tmp_path: Path) -> None:
    settings = ("model.T_cycles=2", "model.n_latent_steps=2", "training.dtype=float32")
    trainer = Trainer(small(preset, tmp_path, *settings), tmp_path / "run")
    model, calls = trainer.model, []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            calls.append(output)

    model.net.register_forward_hook(keep)
    arrays = trainer.dataset.train.arrays()
    extra: dict[str, Any] = {n: torch.from_numpy(a) for n, a in arrays.items() if n not in ("puzzle_ids", "row")}
    inputs, labels = extra.pop("inputs"), extra.pop("labels")
    gradients = []
    for backend in ("reference", "auto"):
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        with ops.use_backend(backend):
            out = model(inputs, model.initial_state(len(inputs)), **extra)
        model.loss(out, labels, **extra).total.backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert without == []
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        if backend == "reference":  # the fused recursion calls no modules
            assert len(calls) == model.config.n_latent_steps + 1
            assert all(call.grad is not None and bool(call.grad.abs().sum() > 0) for call in calls)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("preset", ["tool-select-tiny", "tool-select-small", "tool-generate"])
def test_the_first_state_differs_between_requests(preset: str, tmp_path: Path) -> None:
    """Otherwise training soon makes the state the same everywhere, and no gradient changes it again."""
    settings = ["model.hidden_size=128", "model.num_heads=4", "model.inner_multiple=64"]
    trainer = Trainer(small(preset, tmp_path, *settings), tmp_path / "run")
    arrays = trainer.dataset.train.take(slice(6)).arrays()
    skipped = ("puzzle_ids", "row", "labels")
    extra: dict[str, Any] = {n: torch.from_numpy(a) for n, a in arrays.items() if n not in skipped}
    with torch.no_grad():
        answer = trainer.model(extra.pop("inputs"), trainer.model.initial_state(6), **extra).state.answer
    states = answer[:, 1 : int(extra["mask"].sum(1).min())]
    assert float(states.std(0).mean()) > 0.15  # the mean square of a state is 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_stopped_within_an_epoch_resumes_exactly(preset: str, tmp_path: Path) -> None:
    whole = Trainer(small(preset, tmp_path, "training.steps=9"), tmp_path / "whole")
    whole.train()
    Trainer(small(preset, tmp_path, "training.steps=5"), tmp_path / "parts").train()
    again = Trainer.resume(tmp_path / "parts", config=small(preset, tmp_path, "training.steps=9"))
    assert again.step == 5
    again.train()
    one, other = (checkpoint.load(tmp_path / name)[0] for name in ("whole", "parts"))
    for group, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[group][name]), f"{group}: {name}"
