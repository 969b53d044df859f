"""A tiny task for the tests: questions are digits, and an answer is valid if its sum is even."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.tasks.base import DataConfig, Dataset, Examples, Question, Task

L, V = 5, 6


class Echo(Task):
    """``rules``: whether the task has rules."""

    name = "echo"
    seq_len, vocab_size, grid_shape = L, V, None

    def __init__(self, rules: bool = True) -> None:
        self.has_rules = rules

    def parse(self, text: str, where: str = "") -> Question:
        return Question(text, np.array([int(c) for c in text], dtype=np.int32), where)

    def format(self, question: Question, answer: npt.NDArray[Any]) -> str:
        return question.text + ">" + "".join(map(str, answer))

    def verify(self, examples: Examples, answers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        return answers.sum(-1) % 2 == 0

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        raise NotImplementedError

    def read(self, source: str, limit: int | None = None) -> Examples:
        raise NotImplementedError

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        return examples

    def questions(self, source: str | Path) -> Iterator[Question]:
        raise NotImplementedError

    def draw(self, question: Question, answer: npt.NDArray[Any] | None = None) -> Any:
        raise NotImplementedError


def questions(count: int, seed: int = 0) -> list[Question]:
    rows = np.random.default_rng(seed).integers(0, V, (count, L))
    return [Echo().parse("".join(map(str, row)), f"line {i}") for i, row in enumerate(rows)]


def make_model(max_steps: int = 4, **changes: Any) -> TRM:
    """An untrained model whose rows halt at different steps; no halting logit is near the threshold."""
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_layers": 1,
        "num_heads": 2,
        "inner_multiple": 8,
        "T_cycles": 1,
        "n_latent_steps": 1,
    }
    config = TRMConfig(vocab_size=V, seq_len=L, max_supervision_steps=max_steps, **{**sizes, **changes})
    model = TRM(config).eval()
    with torch.no_grad():
        model.q_head.weight.normal_()
        inputs = torch.from_numpy(np.stack([q.inputs for q in questions(40)]))
        steps = model.solve(inputs, 6, halt=False, return_trajectory=True)["trajectory"]
        logits = torch.cat([s["confidence"].logit() for s in steps]).sort().values[60:-60]
        gap = logits.diff().argmax()
        model.q_head.bias -= (logits[gap] + logits[gap + 1]) / 2
    return model
