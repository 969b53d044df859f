"""The head of the task ``tool-slots``: a decision, a tool, and a kind and a span for each argument and slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trm_fast.labels import IGNORE, SlotKind
from trm_fast.models.heads.base import ArgumentsConfig, Head, HeadConfig, HeadInputs, register
from trm_fast.models.loss import Loss, cross_entropy, focal, joint_loss, smoothed_cross_entropy
from trm_fast.nn.layers import Linear

MAX_SPAN = 16
"""Maximum length of a span in the answer, in positions."""
DECISION, TOOL, FIELDS = 0, 1, 2


class SlotPrediction(NamedTuple):
    """Logits, float32, for B examples, T tools, F fields, K kinds and L positions."""

    decision: Tensor  # (B, 2): answer directly, or call a tool
    tool: Tensor  # (B, T); the lowest float for tools that the example does not offer
    kind: Tensor  # (B, F, K)
    start: Tensor  # (B, F, L); the lowest float for padding
    end: Tensor  # (B, F, L)


class SlotsConfig(ArgumentsConfig):
    """The sizes of a fixed set of tools. The tools' arguments and the dialogue's slots together are the fields."""

    kind: Literal["slots"] = "slots"
    num_tools: int = Field(1, ge=1, description="number of tools to choose from")
    num_fields: int = Field(1, ge=1, description="number of arguments and slots")
    num_values: int = Field(0, ge=0, description="maximum number of listed values per field, besides spans of the text")
    num_arguments: int | None = Field(
        None, ge=0, description="number of fields that are arguments, the first ones; None: all"
    )
    focal_gamma: float = Field(
        2.0, ge=0, le=10,
        description="exponent of the decision's focal loss, in which confidently right examples count little",
    )  # fmt: skip
    decision_weight: float = Field(1.0, ge=0, description="weight of the decision's loss")
    tool_weight: float = Field(1.0, ge=0, description="weight of the tool's loss")
    field_weight: float = Field(0.5, ge=0, description="weight of the loss of arguments and slots")

    @property
    def smooths_labels(self) -> bool:
        return True


@register("slots")
class SlotHead(Head):
    """Reads decision, tool and kinds from the first position, and spans from all positions.

    Labels and answers are integers (B, 2 + 3 F): the decision, the tool, F kinds, F starts and F ends (inclusive).
    Entries without a label are ``IGNORE``. ``extra`` holds ``mask`` bool (B, L), False for padding, and ``offered``
    bool (B, T), the tools that each example offers.
    """

    Config: ClassVar[type[HeadConfig]] = SlotsConfig

    def __init__(self, config: SlotsConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        D = inputs.hidden_size
        self.config, self.fields = config, config.num_fields
        first_slot = config.num_fields if config.num_arguments is None else config.num_arguments
        named = {"argument": slice(0, first_slot), "slot": slice(first_slot, config.num_fields)}
        self.field_parts = {name: fields for name, fields in named.items() if fields.start < fields.stop}
        self.loss_parts = ("decision", "tool", *self.field_parts)
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
        """The most likely value of each part. A span is the most likely pair of start and end within ``MAX_SPAN``
        positions."""
        start, end = best_spans(prediction.start, prediction.end)
        choices = [logits.argmax(-1)[:, None] for logits in (prediction.decision, prediction.tool)]
        return torch.cat([*choices, prediction.kind.argmax(-1), start, end], 1)

    def masked_parts(self, labels: Tensor) -> dict[str, Tensor]:
        return {"tool": labels[:, TOOL] != IGNORE} if self.config.masked_means else {}

    def loss(
        self,
        prediction: SlotPrediction,
        q: Tensor,
        labels: Tensor,
        *,
        last: bool = True,
        label_smoothing: float = 0.0,
        scales: Mapping[str, Tensor] | None = None,
        **extra: Tensor,
    ) -> Loss:
        """Focal loss of the decision, plus cross-entropy of the tool, plus the mean cross-entropies of the labeled
        kinds and spans, with the weights of the configuration. An example is exactly right if its decision, tool,
        kinds and spans all are. ``label_smoothing`` spreads a share of the target over both decisions, and over the
        offered tools."""
        c = self.config
        kind, start, end = labels[:, FIELDS:].long().chunk(3, 1)
        plain = cross_entropy(prediction.decision, labels[:, DECISION])
        smoothed = smoothed_cross_entropy(prediction.decision, labels[:, DECISION], label_smoothing)
        decision = focal(smoothed, c.focal_gamma, plain)
        tool = smoothed_cross_entropy(prediction.tool, labels[:, TOOL], label_smoothing)
        kinds = cross_entropy(prediction.kind, kind)
        spans = cross_entropy(prediction.start, start) + cross_entropy(prediction.end, end)
        has_fields = last or not c.learns_from_last_step
        cost = c.decision_weight * decision + c.tool_weight * (tool * (scales or {}).get("tool", 1.0))
        cost = cost + c.field_weight * has_fields * (_mean(kinds, kind) + _mean(spans, start))
        parts = {"decision": (decision, labels[:, DECISION] != IGNORE), "tool": (tool, labels[:, TOOL] != IGNORE)}
        for name, fields in self.field_parts.items():
            part = _mean(kinds[:, fields], kind[:, fields]) + _mean(spans[:, fields], start[:, fields])
            parts[name] = part, (kind[:, fields] != IGNORE).any(1) & has_fields
        return joint_loss(cost, self.answers(prediction) == labels, labels != IGNORE, q, parts)


def best_spans(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The starts and ends, (B, F) each, of the spans with the largest sum of logits ``start`` and ``end`` (B, F, L)."""
    L = start.shape[-1]
    width = min(MAX_SPAN, L)
    lowest = torch.finfo(end.dtype).min
    ends = F.pad(end, (0, width - 1), value=lowest).unfold(-1, width, 1)  # (B, F, L, width): the ends of each start
    best, offset = ends.max(-1)
    first = (start.double() + best.double()).argmax(-1)  # float64: two lowest floats must not overflow
    return first, first + offset.gather(-1, first[..., None])[..., 0]


def _mean(cost: Tensor, labels: Tensor) -> Tensor:
    """The mean of ``cost`` (B, N) over the labeled entries of each example, shape (B,)."""
    return cost.sum(-1) / (labels != IGNORE).sum(-1).clamp_min(1)
