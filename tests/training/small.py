"""Tiny models, examples and runs for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.tasks.base import Examples
from trm_fast.training import Batch, Callback, RunConfig, TrainingConfig, make_config

SECTIONS: dict[str, dict[str, Any]] = {
    "task": {"name": "sudoku", "size": 4, "givens": [8, 10], "train_count": 30, "test_count": 6},
    "model": {
        "hidden_size": 8,
        "num_heads": 2,
        "num_layers": 1,
        "inner_multiple": 8,
        "T_cycles": 2,
        "n_latent_steps": 1,
        "max_supervision_steps": 4,
    },
    "training": {
        "steps": 40,
        "batch_size": 7,
        "learning_rate": 0.01,
        "warmup_steps": 5,
        "schedule": "cosine",
        "weight_decay": 0.1,
        "ema_decay": 0.9,
        "exploration": 0.3,
        "checkpoint_every": 10,
        "eval_every": 15,
        "log_every": 4,
        "gradient_accumulation": 1,
    },
}


def run_config(model: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    sections = {
        "task": SECTIONS["task"],
        "model": SECTIONS["model"] | (model or {}),
        "training": SECTIONS["training"] | training,
    }
    return make_config(sections, "test")


def training_config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{**SECTIONS["training"], **changes})


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> TRM:
    """A model for 6 cells whose rows halt at different steps."""
    torch.manual_seed(seed)
    model = TRM(TRMConfig(**{"vocab_size": 6, "seq_len": 6, **SECTIONS["model"], **changes}), dtype)
    if dtype == torch.float64:
        model = model.to(dtype)
    with torch.no_grad():
        model.q_head.weight.normal_()
        model.q_head.bias.fill_(-0.5)
        if model.puzzle_embedding is not None:
            model.puzzle_embedding.normal_()
    return model


def make_examples(count: int, seed: int = 0, puzzles: int = 1) -> Examples:
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, 6, (count, 6), dtype=np.int32)
    labels = np.where(rng.random((count, 6)) < 0.2, -100, (inputs * 2) % 5 + 1).astype(np.int32)
    labels[rng.random(count) < 0.15] = -100  # rows without labels
    return Examples(inputs, labels, rng.integers(0, puzzles, count, dtype=np.int32))


def batch_of(examples: Examples) -> Batch:
    return Batch.from_examples(examples)


SPEC = make_examples(0)


class Source:
    """A feed of random examples, different in each chunk."""

    def __init__(self, example_spec: Examples = SPEC, puzzles: int = 4) -> None:
        self.example_spec, self.puzzles = example_spec, puzzles

    def chunk(self, number: int, size: int) -> Examples:
        return make_examples(size, number, self.puzzles)


class Values:
    """A feed of real-valued examples, some of whose numbers are unlabeled."""

    def chunk(self, number: int, size: int) -> Examples:
        rng = np.random.default_rng(number)
        inputs = rng.normal(size=(size, 6, 2)).astype(np.float32)
        labels = np.where(rng.random((size, 6, 1)) < 0.2, np.nan, inputs[..., :1] / 2).astype(np.float32)
        return Examples(inputs, labels, rng.integers(0, 4, size, dtype=np.int32))

    @property
    def example_spec(self) -> Examples:
        return self.chunk(0, 0)


class Killed(BaseException):
    """Ends a run at once, like a kill. The program does not catch it."""


class KillAt(Callback):
    """A callback that kills the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int) -> None:
        if step == self.step:
            raise Killed
