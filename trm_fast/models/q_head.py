"""The Q head, which predicts the halting logit: whether the answer is right. Every model has one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.models.heads.base import HeadInputs

Q_BIAS = -5.0
"""Initial halting logit, at which an untrained model does not halt."""


class QHead(nn.Module):
    """Predicts the halting logit of each row.

    It reads the first position. In a model that mixes over groups, no position is the first, so it reads the mean of
    all positions. In a causal model, the first position does not depend on the others, so it reads the last position
    that is not padding (``mask`` bool (B, L), False for padding).
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        self.causal, self.prefix_tokens, self.grouped = inputs.causal, inputs.prefix_tokens, inputs.grouped
        self.weight = nn.Parameter(torch.zeros(1, inputs.hidden_size))
        self.bias = nn.Parameter(torch.full((1,), Q_BIAS))

    def forward(self, answer: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the halting logits, float32 (B,), for the answer state (B, P + L, D)."""
        first = answer.mean(1) if self.grouped else answer[:, -1 if self.causal else 0]
        if self.causal and mask is not None:
            positions = torch.arange(mask.shape[1], device=mask.device)
            last = self.prefix_tokens + (mask * positions).amax(-1)
            first = answer.gather(1, last[:, None, None].expand(-1, 1, answer.shape[2])).squeeze(1)
        return F.linear(first, self.weight.to(first.dtype), self.bias.to(first.dtype)).float().squeeze(-1)
