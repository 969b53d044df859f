"""Heads: small parts that read the answer state. A model carries those its task asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trm_fast.nn.config import TRMConfig
from trm_fast.nn.layers import Linear

Q_BIAS = -5.0
"""Initial halting logit: nothing is taken for solved before it was learned."""


class TokenHead(nn.Module):
    """Logits (B, L, V) for every token behind the prefix."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.prefix_tokens = config.prefix_tokens
        self.linear = Linear(config.hidden_size, config.vocab_size)

    def forward(self, answer: Tensor) -> Tensor:
        return self.linear(answer)[:, self.prefix_tokens :]


class QHead(nn.Module):
    """Halting logit (B,), float32: how sure the model is that its answer is right; reads the first token."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.bias = nn.Parameter(torch.full((1,), Q_BIAS))

    def forward(self, answer: Tensor) -> Tensor:
        first = answer[:, 0]
        return nn.functional.linear(first, self.weight.to(first.dtype), self.bias.to(first.dtype)).float().squeeze(-1)
