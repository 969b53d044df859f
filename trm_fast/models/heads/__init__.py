"""Heads: small parts that read the answer state. A model has a Q head and the one that its task's answers ask for.

An answer head maps the answer state to a prediction, a prediction to the answer that a solver returns, and has the
loss that teaches it. ``extra`` are the examples' further arrays; each head takes those it knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trm_fast.models.config import TRMConfig
from trm_fast.models.heads.selection import SelectionHead
from trm_fast.models.heads.slots import SlotHead
from trm_fast.models.heads.text import TextHead
from trm_fast.models.loss import Loss, supervision_loss, value_loss
from trm_fast.nn.layers import Linear
from trm_fast.nn.precision import CAST_AT_USE, Precision

Q_BIAS = -5.0
"""Initial halting logit: nothing is taken for solved before it was learned."""


class TokenHead(nn.Module):
    """Logits (B, L, V) for every token behind the prefix; the answer is the likeliest token of each, int64 (B, L)."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.prefix_tokens = config.prefix_tokens
        self.linear = Linear(config.hidden_size, config.vocab_size)

    def forward(self, answer: Tensor, *, precision: Precision = CAST_AT_USE, **extra: Any) -> Tensor:
        return self.linear(answer, precision)[:, self.prefix_tokens :]

    def answers(self, prediction: Tensor) -> Tensor:
        return prediction.argmax(-1)

    def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, **extra: Tensor) -> Loss:
        return supervision_loss(prediction, q, labels)


class ValueHead(nn.Module):
    """Real numbers (B, L, F), float32 or better, for every place behind the prefix."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.prefix_tokens, self.tolerance = config.prefix_tokens, config.tolerance
        self.linear = Linear(config.hidden_size, config.output_width)

    def forward(self, answer: Tensor, **extra: Any) -> Tensor:
        return self.linear(answer.to(torch.promote_types(answer.dtype, torch.float32)))[:, self.prefix_tokens :]

    def answers(self, prediction: Tensor) -> Tensor:
        return prediction

    def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, **extra: Tensor) -> Loss:
        return value_loss(prediction, q, labels, self.tolerance)


HEADS: dict[str, type[Any]] = {
    "tokens": TokenHead,
    "values": ValueHead,
    "text": TextHead,
    "slots": SlotHead,
    "selection": SelectionHead,
}
"""The answer head of each kind of ``TRMConfig.outputs``."""


class QHead(nn.Module):
    """Halting logit (B,), float32: how sure the model is that its answer is right; reads the first token, or in a
    causal model, whose first token sees nothing else, the last one that ``mask`` (B, L) has."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.causal, self.prefix_tokens = config.causal, config.prefix_tokens
        self.weight = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.bias = nn.Parameter(torch.full((1,), Q_BIAS))

    def forward(self, answer: Tensor, mask: Tensor | None = None) -> Tensor:
        first = answer[:, -1 if self.causal else 0]
        if self.causal and mask is not None:
            places = torch.arange(mask.shape[1], device=mask.device)
            last = self.prefix_tokens + (mask * places).amax(-1)
            first = answer.gather(1, last[:, None, None].expand(-1, 1, answer.shape[2])).squeeze(1)
        return nn.functional.linear(first, self.weight.to(first.dtype), self.bias.to(first.dtype)).float().squeeze(-1)
