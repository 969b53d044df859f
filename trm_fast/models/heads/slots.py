"""The head of a tool-calling model: a decision, a tool, and for each argument and slot a kind and a span of text."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trm_fast.labels import IGNORE, SlotKind
from trm_fast.models.heads.base import ArgumentsConfig, Head, HeadConfig, HeadInputs, register
from trm_fast.models.loss import Loss, cross_entropy, joint_loss
from trm_fast.nn.layers import Linear

FOCUS = 2.0
"""Exponent of the decision's focal loss (arXiv 1708.02002): rows decided well count little."""
FIELD_WEIGHT = 0.5
"""Of fields in the loss, beside 1 for the decision and for the tool."""
LONGEST_SPAN = 16
DECISION, TOOL, FIELDS = 0, 1, 2


class SlotPrediction(NamedTuple):
    """Logits, float32, of B rows, T tools, F fields of K kinds, L positions."""

    decision: Tensor  # (B, 2): answer directly, call a tool
    tool: Tensor  # (B, T); those not offered are out of reach
    kind: Tensor  # (B, F, K)
    start: Tensor  # (B, F, L): padding is out of reach
    end: Tensor  # (B, F, L)


class SlotsConfig(ArgumentsConfig):
    """A fixed set of tools, with their arguments and slots together as fields."""

    kind: Literal["slots"] = "slots"
    num_tools: int = Field(1, ge=1, description="tools to choose from")
    num_fields: int = Field(1, ge=1, description="arguments and slots that may have a value")
    num_values: int = Field(0, ge=0, description="values of a field known beside those that stand in the text")


@register("slots")
class SlotHead(Head):
    """Decision, tool and kinds read the first position, spans every position.

    Labels and answers are int (B, 2 + 3 F): the decision, the tool, F kinds, F starts, F ends (inclusive), ``IGNORE``
    where there is nothing to learn. ``extra``: ``mask`` (B, L), ``offered`` bool (B, T), tools that a row offers.
    """

    Config: ClassVar[type[HeadConfig]] = SlotsConfig

    def __init__(self, config: SlotsConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        D = inputs.hidden_size
        self.fields = config.num_fields
        self.last_alone = config.learns_from_last_step
        self.decision, self.tool = Linear(D, 2), Linear(D, config.num_tools)
        self.kind = Linear(D, config.num_fields * (len(SlotKind) + config.num_values))
        self.span = Linear(D, 2 * config.num_fields)

    def forward(
        self, answer: Tensor, mask: Tensor | None = None, offered: Tensor | None = None, **extra: Any
    ) -> SlotPrediction:
        first, positions = answer[:, 0].float(), answer[:, self.prefix_tokens :].float()
        tool = self.tool(first)
        if offered is not None:
            tool = tool.masked_fill(~offered, torch.finfo(tool.dtype).min)
        span = self.span(positions).transpose(1, 2)
        if mask is not None:
            span = span.masked_fill(~mask[:, None], torch.finfo(span.dtype).min)
        start, end = span.chunk(2, 1)
        kind = self.kind(first).view(len(first), self.fields, -1)
        return SlotPrediction(self.decision(first), tool, kind, start, end)

    def answers(self, prediction: SlotPrediction) -> Tensor:
        """The likeliest of each; a span is the likeliest pair of start and end, ``LONGEST_SPAN`` positions at most."""
        start, end = best_spans(prediction.start, prediction.end)
        ones = [logits.argmax(-1)[:, None] for logits in (prediction.decision, prediction.tool)]
        return torch.cat([*ones, prediction.kind.argmax(-1), start, end], 1)

    def loss(
        self, prediction: SlotPrediction, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor
    ) -> Loss:
        """Focal loss of the decision, cross-entropy of the tool, half the means over a row's labelled kinds and spans.
        A row is exactly right when decision, tool, kinds and spans all are."""
        kind, start, end = labels[:, FIELDS:].long().chunk(3, 1)
        decision = cross_entropy(prediction.decision, labels[:, DECISION])
        cost = (1 - (-decision).exp()) ** FOCUS * decision + cross_entropy(prediction.tool, labels[:, TOOL])
        spans = cross_entropy(prediction.start, start) + cross_entropy(prediction.end, end)
        cost = cost + FIELD_WEIGHT * (last or not self.last_alone) * (
            _mean(cross_entropy(prediction.kind, kind), kind) + _mean(spans, start)
        )
        return joint_loss(cost.sum(), self.answers(prediction) == labels, labels != IGNORE, q)


def best_spans(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (B, F) of start and end with the largest sum of logits (B, F, L), the end not before the start."""
    L = start.shape[-1]
    width = min(LONGEST_SPAN, L)
    low = torch.finfo(end.dtype).min
    ends = F.pad(end, (0, width - 1), value=low).unfold(-1, width, 1)  # (B, F, L, width): each start's ends
    best, offset = ends.max(-1)
    first = (start.double() + best.double()).argmax(-1)  # double: two of the lowest don't overflow
    return first, first + offset.gather(-1, first[..., None])[..., 0]


def _mean(cost: Tensor, labels: Tensor) -> Tensor:
    """Over the labelled of each row (B, N)."""
    return cost.sum(-1) / (labels != IGNORE).sum(-1).clamp_min(1)
