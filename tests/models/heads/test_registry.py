"""A new head is one class that registers itself; configuration, model and model folder then work with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.models import HEADS, Loss, TRMConfig
from trm_fast.models.heads import Head, HeadConfig, HeadInputs, register
from trm_fast.models.loss import row_loss
from trm_fast.nn.layers import Linear

from ..small import config, tokens


class ParityConfig(HeadConfig):
    kind: Literal["parity"] = "parity"
    bits: int = Field(1, ge=1)


@pytest.fixture(autouse=True)
def parity() -> Iterator[None]:
    @register("parity")
    class ParityHead(Head):
        """Bits that describe a whole example."""

        Config: ClassVar[type[HeadConfig]] = ParityConfig

        def __init__(self, config: ParityConfig, inputs: HeadInputs) -> None:
            super().__init__(config, inputs)
            self.linear = Linear(inputs.hidden_size, config.bits)

        def forward(self, answer: Tensor, **extra: Any) -> Tensor:
            prediction: Tensor = self.linear(answer.mean(1))
            return prediction

        def answers(self, prediction: Tensor) -> Tensor:
            return (prediction > 0).long()

        def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
            cost = (prediction - labels).square()
            return row_loss(cost, self.answers(prediction) == labels, torch.ones_like(cost, dtype=torch.bool), q)

    yield
    del HEADS["parity"]


def test_a_model_with_a_new_head_trains_solves_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TRM(config(head={"kind": "parity", "bits": 2}))
    inputs = tokens(3)
    losses = [model.train_step(inputs, torch.tensor([[0, 1], [1, 0], [1, 1]]))["loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = TRM.from_pretrained(tmp_path)
    assert again.config.head == ParityConfig(bits=2)
    assert torch.equal(again.solve(inputs)["solution"], model.solve(inputs)["solution"])
    assert again.solve(inputs)["solution"].shape == (3, 2)


def test_keys_of_a_new_head_survive_json_and_hashing() -> None:
    prediction = config(head=ParityConfig(bits=3))
    again = TRMConfig.model_validate(prediction.model_dump(mode="json"))
    assert again == prediction
    assert hash(again) == hash(prediction)
    assert config(head={"kind": "parity"}) != prediction
