"""The head that answers with one token at each position."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trm_fast.models.heads.base import Head, HeadConfig, HeadInputs, register
from trm_fast.models.loss import Loss, supervision_loss
from trm_fast.nn.layers import Linear
from trm_fast.nn.precision import CAST_AT_USE, Precision


class TokensConfig(HeadConfig):
    """It adds no keys: the number of classes is the size of the model's vocabulary."""

    kind: Literal["tokens"] = "tokens"

    @property
    def smooths_labels(self) -> bool:
        return True


@register("tokens")
class TokenHead(Head):
    """Predicts logits (B, L, V) for the positions after the prefix. The answer is the most likely token at each
    position, int64 (B, L)."""

    Config: ClassVar[type[HeadConfig]] = TokensConfig

    def __init__(self, config: TokensConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        self.symbols = inputs.symbols
        special = inputs.vocab_size - inputs.symbols
        self.linear = Linear(inputs.hidden_size, special + 1 if inputs.symbols else inputs.vocab_size)

    def forward(self, answer: Tensor, *, precision: Precision = CAST_AT_USE, **extra: Any) -> Tensor:
        if self.symbols:  # one map for all symbols; special tokens are judged by the mean over the symbols
            scores = self.linear(answer, precision).unflatten(1, (-1, self.symbols))
            return torch.cat((scores[..., 1:].mean(2), scores[..., 0]), dim=-1)
        return self.linear(answer, precision)[:, self.prefix_tokens :]

    def answers(self, prediction: Tensor) -> Tensor:
        return prediction.argmax(-1)

    def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Any) -> Loss:
        return supervision_loss(prediction, q, labels, extra.get("label_smoothing", 0.0))
