"""The head of a causal text model: the symbol that comes next, generated or copied from a position before."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trm_fast.labels import IGNORE
from trm_fast.models.heads.base import Head, HeadConfig, HeadInputs, register, rows_at
from trm_fast.models.loss import Loss, row_loss
from trm_fast.nn.layers import Linear

NEAR, REACH = 2, 6
"""How many neighbours on either side tell what a position is, and how far from it the stems that speak for it stand."""
STEM_SCORES = 4
"""Ways in which the stems near a position may speak for it."""
FEATURE_SCORES = 4
"""Ways in which a position's own features may speak for it."""
PLAIN_SCORES = 5
"""What else is known of two positions: linked, follows by one and by two, was said in the row, and in the call."""
STEEP = 4.0
"""Of gates: an optimizer that moves all weights alike finds their size in a few steps."""
STATE_INIT_SCALE = 0.1
"""Of weights that read the network's state beside features, at first: a network that has learnt nothing must not drown
what is known."""


class Next(NamedTuple):
    """Log probabilities of the symbol behind some positions."""

    scores: Tensor  # float32 (B, K, V), with the row's own symbols behind the vocabulary
    positions: Tensor  # int64 (B, K)


class TextConfig(HeadConfig):
    """What a row has beside its symbols."""

    kind: Literal["text"] = "text"
    row_symbols: int = Field(
        0, ge=0, description="symbols behind the vocabulary that only a row has, which can be copied alone"
    )
    stems: int = Field(0, ge=0, description="numbers of stems by which words and arguments meet; 0 for none")
    pointer_width: int = Field(32, ge=1, description="in which a position meets those that it may copy")

    def check(self, inputs: HeadInputs) -> None:
        if not inputs.causal:
            raise ValueError("head.kind: text needs causal: true, or each position would see the next one")
        if self.stems and not inputs.features:
            raise ValueError("head.kind: text with stems needs features, too")


@register("text")
class TextHead(Head):
    """The symbol behind each position.

    A pointer (arXiv 1704.04368) mixes a distribution over the vocabulary with one over the positions before, whose
    symbols it copies; a gate beside the pointers generates one instead. A position is found by its own state and those
    of its neighbours, so the last ones can't be copied yet.

    ``inputs`` int (B, L) are the symbols, or ``symbols`` (B, L) where a row has its own (``row_symbols``), of which
    ``sources`` bool (B, L) can be copied; ``weights`` float32 (B, L) say how much a position's loss counts. In a model
    with features ``features`` (B, L, F); in one with stems what ``CopyScorer`` takes.
    """

    Config: ClassVar[type[HeadConfig]] = TextConfig

    def __init__(self, config: TextConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        D, A = inputs.hidden_size, config.pointer_width
        width = D + inputs.features
        self.seq_len, self.row_symbols = inputs.seq_len, config.row_symbols
        self.linear = Linear(D, inputs.vocab_size)
        self.wanted, self.anew = Linear(width, A), nn.Linear(width, 1)  # of queries, and the gate that generates
        self.near = nn.Conv1d(width, A, 2 * NEAR + 1, padding=NEAR, bias=False)  # of keys
        self.meeting = CopyScorer(width, inputs.features) if config.stems else None
        if inputs.features:
            with torch.no_grad():
                for weight in (self.wanted.weight, self.near.weight, self.anew.weight):
                    weight[:, :D].mul_(STATE_INIT_SCALE)

    def forward(
        self, answer: Tensor, *, inputs: Tensor, mask: Tensor | None = None, weights: Tensor | None = None,
        last_only: bool = False, symbols: Tensor | None = None, sources: Tensor | None = None,
        features: Tensor | None = None, static_shapes: bool = False, **extra: Any,
    ) -> Next:  # fmt: skip
        """With ``last_only`` for the last position alone. On a CPU the positions behind the longest row's and those
        without weight are left out: a vocabulary's worth of numbers each is most of the work."""
        states = answer[:, self.prefix_tokens :].float()
        trims = answer.device.type == "cpu" and not static_shapes
        if mask is not None and trims:
            states = states[:, : int(mask.sum(1).max())]
        B, L, D = states.shape
        every = torch.arange(L, device=states.device)
        positions = every[L - 1 if last_only else 0 :].expand(B, -1)
        if weights is not None and trims and bool((counts := weights[:, :L] > 0).any()):
            order = counts.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            positions = order[:, : int(counts.sum(1).max())]
        known = states if features is None else torch.cat((states, features[:, :L].float()), -1)
        queries, keys = rows_at(known, positions), self.near(known.transpose(1, 2))
        scores = self.wanted(queries) @ keys * keys.shape[1] ** -0.5
        symbols = (inputs if symbols is None else symbols)[:, :L].long()
        sources = (symbols > 0) if sources is None else sources[:, :L]
        if self.meeting is not None:
            scores = scores + self.meeting(queries, positions, symbols, sources, known[..., D:], **extra)
        within = sources[:, None] & (every + NEAR <= positions[..., None])
        scores = scores.masked_fill(~within, torch.finfo(scores.dtype).min)
        mixture = torch.cat((self.anew(queries), scores), -1).softmax(-1)
        generated = F.pad(self.linear(queries[..., :D]).softmax(-1) * mixture[..., :1], (0, self.row_symbols))
        copied = symbols[:, None].expand(-1, positions.shape[1], -1)
        return Next(generated.scatter_add(2, copied, mixture[..., 1:]).clamp_min(1e-9).log(), positions)

    def answers(self, prediction: Next) -> Tensor:
        """The likeliest symbol behind each position (B, L), 0 where none was computed."""
        likeliest = prediction.scores.argmax(-1)
        blank = likeliest.new_zeros(len(likeliest), self.seq_len)
        return blank.scatter(1, prediction.positions, likeliest)

    def loss(self, prediction: Next, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        """Cross-entropy, the mean of a row weighted by ``weights``."""
        labels, weights = (t.gather(1, prediction.positions) for t in (labels, extra["weights"]))
        valid = labels != IGNORE
        cost = F.nll_loss(
            prediction.scores.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORE, reduction="none"
        ).view(labels.shape)
        share = weights * valid.sum(-1, keepdim=True) / (weights * valid).sum(-1, keepdim=True).clamp_min(1e-6)
        return row_loss(cost * share, prediction.scores.argmax(-1) == labels, valid, q)


class CopyScorer(nn.Module):
    """What speaks for copying one position behind another, whatever the network makes of them: scores (B, K, L).

    Stems of what is spoken of that stand near the position (``stems`` int (B, L, S), the first half a name's), links
    that both have (``links`` (B, L, T)), that it goes on with what was just copied, that its symbol was said already
    (``calls`` int (B, L): the number of the call that a position is in, 0 for none), and its own features.
    How much each counts depends on the position that is continued.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(2, STEM_SCORES, 2 * REACH + 1, padding=REACH, bias=False)
        self.worth = Linear(features, FEATURE_SCORES)
        self.gates = nn.Linear(width, STEM_SCORES + PLAIN_SCORES + FEATURE_SCORES)
        with torch.no_grad():
            self.gates.weight[:, : width - features].mul_(STATE_INIT_SCALE)

    def forward(
        self, queries: Tensor, positions: Tensor, symbols: Tensor, sources: Tensor, features: Tensor, *, stems: Tensor,
        links: Tensor, calls: Tensor, **extra: Any,
    ) -> Tensor:  # fmt: skip
        """queries (B, K, E) are those of ``positions`` (B, K); ``symbols``, ``sources`` (B, L)."""
        (B, K), L = positions.shape, symbols.shape[1]
        source_stems = (stems[:, :L, 0] * sources)[:, None, :, None]
        past = torch.arange(L, device=symbols.device) <= positions[..., None]
        met = (rows_at(stems, positions)[:, :, None] == source_stems) & (source_stems > 0) & past[..., None]
        names = torch.stack([part.any(-1) for part in met.chunk(2, -1)], 2).to(queries.dtype)
        near = self.near(names.flatten(0, 1)).view(B, K, STEM_SCORES, L)
        linked = rows_at(links, positions) @ links[:, :L].transpose(1, 2)
        now, before = symbols.gather(1, positions), symbols.gather(1, (positions - 1).clamp_min(0))
        one = now[..., None] == F.pad(symbols, (1, 0))[:, None, :L]
        two = one & (before[..., None] == F.pad(symbols, (2, 0))[:, None, :L])
        calls = calls[:, :L]
        in_row = (calls[:, None] > 0) & past
        in_call = in_row & (calls[:, None] == calls.gather(1, positions)[..., None])
        alike = (symbols[:, :, None] == symbols[:, None]).to(queries.dtype)
        in_row, in_call = ((part.to(queries.dtype) @ alike).clamp_max(1) for part in (in_row, in_call))
        plain = torch.stack([linked, one.to(linked), two.to(linked), in_row, in_call], 2)
        worth = self.worth(features).transpose(1, 2)[:, None].expand(-1, K, -1, -1)
        gates = STEEP * self.gates(queries)
        return (gates[:, :, None] @ torch.cat((near, plain, worth), 2)).squeeze(2)
