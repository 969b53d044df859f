"""The head that answers with real numbers at each position."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trm_fast.models.heads.base import Head, HeadConfig, HeadInputs, register
from trm_fast.models.loss import Loss, value_loss
from trm_fast.nn.layers import Linear


class ValuesConfig(HeadConfig):
    """The number of values per position, and the largest error at which a value counts as right."""

    kind: Literal["values"] = "values"
    width: int = Field(1, ge=1, description="real numbers per position")
    tolerance: float = Field(0.1, gt=0, description="largest absolute error that counts as right")


@register("values")
class ValueHead(Head):
    """Predicts real numbers (B, L, F) for the positions after the prefix, float32, or float64 in a float64 model."""

    Config: ClassVar[type[HeadConfig]] = ValuesConfig

    def __init__(self, config: ValuesConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        self.tolerance = config.tolerance
        self.linear = Linear(inputs.hidden_size, config.width)

    def forward(self, answer: Tensor, **extra: Any) -> Tensor:
        return self.linear(answer.to(torch.promote_types(answer.dtype, torch.float32)))[:, self.prefix_tokens :]

    def answers(self, prediction: Tensor) -> Tensor:
        return prediction

    def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        return value_loss(prediction, q, labels, self.tolerance)
