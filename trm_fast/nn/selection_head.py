"""The head of a model that chooses among a row's own tools: it points at places, so that any tool will do."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.nn.config import FIELD_KINDS, TAGS, TRMConfig
from trm_fast.nn.layers import Linear
from trm_fast.nn.loss import IGNORE, Loss

SPAN = 1
"""The kind of an argument whose value stands in the text; the others need no words."""
SCALE = 1000
"""Answers are whole numbers: a tool's logit in thousandths, so that its sign and its order are kept."""
ARGUMENTS = 2.0
"""Weight of the arguments' loss beside that of the tools."""
GAIN = 10.0
"""Of the measures that count directly: an optimizer that moves all weights alike finds their size in a few steps."""
OUTSIDE = 3.0
"""Initial logit of a word that belongs to no value: most do not."""


class Selection(NamedTuple):
    """Logits, float32, of B rows with T tools, P arguments of them and W words."""

    tools: Tensor  # (B, T): called or not; a place without a tool is out of reach
    kinds: Tensor  # (B, P, FIELD_KINDS)
    tags: Tensor  # (B, P, W, TAGS)


class SelectionHead(nn.Module):
    """A tool is called when its place and the first one agree; a word is an argument's when their places do.

    ``extra``: ``tool_places`` int (B, T) and ``field_places`` int (B, P), places in the sequence, 0 for none; ``mask``
    (B, L); in a model with features ``features`` (B, L, F). Words are the places 1 to W. Labels are int
    (B, T + P + P W), tools 0 or 1, kinds, tags, ``IGNORE`` where there is nothing to learn; answers are the same with
    tools as logits in thousandths.
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D, R, A = config.hidden_size, config.reasoning_dim, config.action_dim
        self.prefix_tokens, self.words = config.prefix_tokens, config.num_words
        self.sizes = (config.num_tools, config.num_fields, config.num_fields * config.num_words)
        self.request, self.tool, self.tool_bias = Linear(D, R), Linear(D, R), Linear(D, 1)
        self.kind, self.field, self.word = Linear(D, FIELD_KINDS), Linear(D, TAGS * A), Linear(D, A)
        self.tag_bias = nn.Parameter(torch.tensor([OUTSIDE, 0.0, 0.0]))
        self.shortcut: nn.Parameter | None = None
        self.pairs: nn.Parameter | None = None
        if known := config.features:
            self.shortcut = nn.Parameter(torch.zeros(known))
            self.pairs = nn.Parameter(torch.zeros(TAGS, known, known))

    def forward(
        self, answer: Tensor, *, tool_places: Tensor, field_places: Tensor, mask: Tensor | None = None, **extra: Tensor
    ) -> Selection:
        places = answer[:, self.prefix_tokens :].float()
        tools, fields = _at(places, tool_places), _at(places, field_places)
        agreement = torch.einsum("bd,btd->bt", self.request(places[:, 0]), self.tool(tools))
        logits = agreement * self.tool.weight.shape[0] ** -0.5 + self.tool_bias(tools).squeeze(-1)
        words = self.word(places[:, 1 : self.words + 1])
        wanted = self.field(fields).unflatten(-1, (TAGS, -1))
        tags = torch.einsum("bpta,bwa->bpwt", wanted, words) * words.shape[-1] ** -0.5
        tags = tags + self.tag_bias
        if self.shortcut is not None and self.pairs is not None:
            # What is known of a tool, such as its word overlap, and of a word and an argument counts from the start.
            known = extra["features"].float()
            logits = logits + GAIN * (_at(known, tool_places) @ self.shortcut)
            theirs, mine = _at(known, field_places), known[:, 1 : self.words + 1]
            tags = tags + torch.einsum("bpf,tfg,bwg->bpwt", theirs, self.pairs, mine)
        logits = logits.masked_fill(tool_places == 0, -1e4)
        return Selection(logits, self.kind(fields), tags)

    def answers(self, prediction: Selection) -> Tensor:
        tools = (prediction.tools * SCALE).round().long()
        return torch.cat([tools, prediction.kinds.argmax(-1), prediction.tags.argmax(-1).flatten(1)], 1)

    def loss(self, prediction: Selection, q: Tensor, labels: Tensor, **extra: Tensor) -> Loss:
        """Binary cross-entropy of the tools, and ``ARGUMENTS`` times that of the called tools' kinds (mean) and tags
        (sum over words, mean over arguments). A row is exactly right when all of them are."""
        tools, kinds, tags = (part.long() for part in labels.split(self.sizes, 1))
        known = tools != IGNORE
        cost = F.binary_cross_entropy_with_logits(prediction.tools, (tools == 1).float(), reduction="none")
        answer = (cost * known).sum(-1) / known.sum(-1).clamp_min(1)
        kind_cost = _cross_entropy(prediction.kinds, kinds).sum(-1) / (kinds != IGNORE).sum(-1).clamp_min(1)
        tag_cost = _cross_entropy(prediction.tags.flatten(1, 2), tags).sum(-1) / (kinds == SPAN).sum(-1).clamp_min(1)
        answer = (answer + ARGUMENTS * (kind_cost + tag_cost)).sum()
        said = self.answers(prediction)
        said[:, : self.sizes[0]] = (said[:, : self.sizes[0]] > 0).long()
        valid = labels != IGNORE
        found, count = (valid & (said == labels)).sum(-1), valid.sum(-1)
        exact = found == count
        halting = F.binary_cross_entropy_with_logits(q, exact.to(q.dtype), reduction="sum")
        return Loss(answer + 0.5 * halting, answer, halting, exact, found / count.clamp_min(1), count > 0)


def _at(places: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, D) of places (B, L, D) at index (B, K)."""
    return places.gather(1, index.long()[..., None].expand(-1, -1, places.shape[-1]))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per label (B, N), 0 where it is ``IGNORE``; logits (B, N, C)."""
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)
