"""The number of parts of a batch, from the memory that a row's backward keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.autograd.graph import get_gradient_edge

from trm_fast import ops
from trm_fast.training import Callback, Trainer, memory
from trm_fast.training.memory import bytes_per_row, parts_that_fit

from .small import SPEC, make_model, run_config


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_memory_grows_with_rows_latent_steps_and_layers(mixing: str) -> None:
    model = make_model(mixing=mixing)
    row = bytes_per_row(model, SPEC)
    kept = [memory._saved_bytes(model, SPEC, count, recompute=False) for count in (1, 9)]
    assert kept[1] - kept[0] == pytest.approx(8 * row, rel=0.02)
    # Autograd keeps only the last cycle, so T has no influence, but n and the number of layers have.
    assert bytes_per_row(make_model(mixing=mixing, T_cycles=5), SPEC) == row
    deeper = bytes_per_row(make_model(mixing=mixing, n_latent_steps=3), SPEC)
    assert 1.5 * row < deeper < 2 * row
    taller = bytes_per_row(make_model(mixing=mixing, num_layers=2), SPEC)
    assert taller > 1.3 * row  # two layers share one state
    smallest = 2 * model.config.seq_len * model.config.hidden_size * 4  # one activation per layer, two applications
    assert row > 2 * smallest


def test_rows_with_padding_count_as_full_rows() -> None:
    """On a CPU, attention cuts off padding after the longest row, but the empty rows here must count as full."""
    model = make_model(mixing="attention")
    mask = np.zeros((0, model.config.seq_len), np.bool_)
    with ops.use_backend("reference"):
        assert bytes_per_row(model, replace(SPEC, extra={"mask": mask})) >= bytes_per_row(model, SPEC)


def test_measuring_changes_neither_model_nor_random_state() -> None:
    model = make_model(dropout=0.1)
    random_state, state = torch.get_rng_state(), {n: t.clone() for n, t in model.state_dict().items()}
    bytes_per_row(model, SPEC)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"norm_position": "pre"}, {"dtype": torch.bfloat16}, {"mixing": "attention"}])
def test_measuring_frees_its_graph(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """A gradient accumulator that stays alive belongs to the stream of its first use. A step on another stream could
    then not be captured."""
    model = make_model(**changes)
    plain_loss, nodes = model.loss, [get_gradient_edge(p).node for p in model.parameters()]

    def loss(*arguments: Any, **options: Any) -> Any:
        for node in nodes:
            node.metadata["seen"] = True
        nodes.clear()
        return plain_loss(*arguments, **options)

    monkeypatch.setattr(model, "loss", loss)
    with ops.use_backend("reference"):
        bytes_per_row(model, SPEC)
    assert not nodes
    assert not any(get_gradient_edge(p).node.metadata for p in model.parameters())


@pytest.mark.parametrize(
    ("rows", "parts"), [(1000, 1), (10, 1), (9.9, 2), (5, 2), (4, 3), (1, 10), (0.01, 10), (0, 10)]
)
def test_parts_that_fit(rows: float, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    row_bytes = bytes_per_row(model, SPEC)
    free = int(rows * row_bytes / memory.SHARE) + 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert parts_that_fit(10, row_bytes, torch.device("cpu")) == parts


def test_free_memory_is_at_most_that_of_the_machine() -> None:
    assert 0 < memory.free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total


def test_a_run_notes_its_parts_and_keeps_their_number_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, config = Notes(), run_config(gradient_accumulation="auto", steps=2)
    probe = Trainer(config, tmp_path / "probe")
    row = bytes_per_row(probe.model, probe.dataset.train)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(3 * row / memory.SHARE) + 1)
    trainer = Trainer(config, tmp_path / "run", callbacks=[notes])
    assert len(trainer.step_function.parts) == 3
    assert any("3 parts of 3 rows" in note for note in notes.notes)
    trainer.train()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    assert len(Trainer.resume(tmp_path / "run").step_function.parts) == 3, "other parts would round differently"
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert len(Trainer.resume(tmp_path / "run").step_function.parts) == 7


@pytest.mark.parametrize(("accumulation", "parts"), [(1, 1), (2, 2), (99, 7)])
def test_a_configured_number_of_parts_is_used(
    accumulation: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    trainer = Trainer(run_config(gradient_accumulation=accumulation), tmp_path / "run")
    assert len(trainer.step_function.parts) == parts


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_recomputing_keeps_the_input_of_each_application(mixing: str) -> None:
    def row(n: int, recompute: bool) -> int:
        model = make_model(mixing=mixing, n_latent_steps=n, hidden_size=64, inner_multiple=64)
        with ops.use_backend("reference"):  # CPU kernels recompute much on their own
            return bytes_per_row(model, SPEC, recompute=recompute)

    state = 6 * 64 * 4
    assert row(7, True) - row(3, True) == 4 * state
    assert row(7, False) - row(3, False) > 2 * 4 * state
    assert row(23, True) < row(23, False) / 2
