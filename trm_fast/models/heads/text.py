"""The head of causal text models: predicts the next symbol, from the vocabulary or copied from an earlier position."""

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

KEY_RADIUS, STEM_RADIUS = 2, 6
"""Radius in positions of the convolution that makes the keys, and of the convolution over shared stems."""
STEM_SCORES = 4
"""Number of a position's scores that come from shared stems near it."""
FEATURE_SCORES = 4
"""Number of a position's scores that come from its features."""
PLAIN_SCORES = 5
"""Number of other scores of a position: whether it has a link in common, whether it continues the last symbol or the
last two symbols, and whether its symbol was already written in any call or in the current call."""
GATE_SCALE = 4.0
"""Factor of the gates. AdamATan2 changes all weights by similar amounts, so the factor lets the gates grow to a useful
size in a few steps."""
STATE_INIT_SCALE = 0.1
"""Factor of the initial weights that read the network's state if there are features: an untrained state must not
outweigh the features."""


class Next(NamedTuple):
    """Log probabilities of the symbol that follows each of K positions."""

    scores: Tensor  # float32 (B, K, V + row_symbols)
    positions: Tensor  # int64 (B, K)


class TextConfig(HeadConfig):
    """The numbers of an example's own symbols and of stems, and the width of the pointer."""

    kind: Literal["text"] = "text"
    row_symbols: int = Field(0, ge=0, description="number of an example's own symbols, which can only be copied")
    stems: int = Field(0, ge=0, description="stems per position by which words and arguments match; 0 for none")
    pointer_width: int = Field(32, ge=1, description="width of the queries and keys of the pointer")

    def check(self, inputs: HeadInputs) -> None:
        if not inputs.causal:
            raise ValueError("head.kind: text needs causal: true, or positions would see the symbols that they predict")
        if self.stems and not inputs.features:
            raise ValueError("head.kind: text with stems needs features, too")


@register("text")
class TextHead(Head):
    """Predicts the symbol that follows each position.

    A pointer-generator network (arXiv 1704.04368) mixes a distribution over the vocabulary with one over earlier
    positions, whose symbols it copies. The weight of the vocabulary is one more entry in the softmax over positions.
    The key of a position depends on the ``KEY_RADIUS`` positions on either side, so the last ``KEY_RADIUS`` positions
    cannot be copied yet.

    ``extra`` holds ``inputs`` int (B, L), the symbols, or ``symbols`` int (B, L) if examples have their own symbols
    (``row_symbols``); ``sources`` bool (B, L), the positions that can be copied; ``weights`` float32 (B, L), the weight
    of each position in the loss, 1 by default; ``features`` (B, L, F) if the model has features; and the arrays of
    ``CopyScorer`` if the head has stems.
    """

    Config: ClassVar[type[HeadConfig]] = TextConfig

    def __init__(self, config: TextConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        D, A = inputs.hidden_size, config.pointer_width
        width = D + inputs.features
        self.seq_len, self.row_symbols = inputs.seq_len, config.row_symbols
        self.array_names = ("symbols",) if config.row_symbols else ()
        self.array_names += ("stems", "links", "calls") if config.stems else ()
        self.linear = Linear(D, inputs.vocab_size)
        # The pointer's queries, the logit of the vocabulary, and the pointer's keys.
        self.wanted, self.anew = Linear(width, A), nn.Linear(width, 1)  # name in state_dict
        self.near = nn.Conv1d(width, A, 2 * KEY_RADIUS + 1, padding=KEY_RADIUS, bias=False)
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
        """Predicts the symbol after every position, or with ``last_only`` after the last one.

        On a CPU, positions without a weight and padding after the longest example are skipped, because the softmax over
        the vocabulary takes most of the time.
        """
        states = answer[:, self.prefix_tokens :].float()
        trims = answer.device.type == "cpu" and not static_shapes
        if mask is not None and trims:
            states = states[:, : int(mask.sum(1).max())]
        B, L, D = states.shape
        all_positions = torch.arange(L, device=states.device)
        positions = all_positions[L - 1 if last_only else 0 :].expand(B, -1)
        if weights is not None and trims and bool((weighted := weights[:, :L] > 0).any()):
            order = weighted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            positions = order[:, : int(weighted.sum(1).max())]
        context = states if features is None else torch.cat((states, features[:, :L].float()), -1)
        queries, keys = rows_at(context, positions), self.near(context.transpose(1, 2))
        scores = self.wanted(queries) @ keys * keys.shape[1] ** -0.5
        symbols = (inputs if symbols is None else symbols)[:, :L].long()
        sources = (symbols > 0) if sources is None else sources[:, :L]
        if self.meeting is not None:
            scores = scores + self.meeting(queries, positions, symbols, sources, context[..., D:], **extra)
        allowed = sources[:, None] & (all_positions + KEY_RADIUS <= positions[..., None])
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        mixture = torch.cat((self.anew(queries), scores), -1).softmax(-1)
        generated = F.pad(self.linear(queries[..., :D]).softmax(-1) * mixture[..., :1], (0, self.row_symbols))
        copied = symbols[:, None].expand(-1, positions.shape[1], -1)
        return Next(generated.scatter_add(2, copied, mixture[..., 1:]).clamp_min(1e-9).log(), positions)

    def answers(self, prediction: Next) -> Tensor:
        """The most likely symbol after each position, int64 (B, L); 0 for positions that were not computed."""
        likeliest = prediction.scores.argmax(-1)
        zeros = likeliest.new_zeros(len(likeliest), self.seq_len)
        return zeros.scatter(1, prediction.positions, likeliest)

    def loss(self, prediction: Next, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        """Cross-entropy, averaged over the positions of each example with ``weights``."""
        weights = extra.get("weights", torch.ones(labels.shape, device=labels.device))
        labels, weights = (t.gather(1, prediction.positions) for t in (labels, weights))
        valid = labels != IGNORE
        cost = F.nll_loss(
            prediction.scores.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORE, reduction="none"
        ).view(labels.shape)
        share = weights * valid.sum(-1, keepdim=True) / (weights * valid).sum(-1, keepdim=True).clamp_min(1e-6)
        return row_loss(cost * share, prediction.scores.argmax(-1) == labels, valid, q)


class CopyScorer(nn.Module):
    """Scores (B, K, L) for writing the symbol of position ``l`` after position ``k``, without the network's state at
    ``l``.

    A position has scores for stems near it that the current argument also has (``stems`` int (B, L, S), the first half
    from the argument's name), for links that both positions have (``links`` float (B, L, T)), for continuing the
    symbols at ``k``, for symbols that are already written (``calls`` int (B, L), the number of the call that a position
    belongs to, 0 for none), and for its features. Gates that depend on position ``k`` weight these scores.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(2, STEM_SCORES, 2 * STEM_RADIUS + 1, padding=STEM_RADIUS, bias=False)
        self.worth = Linear(features, FEATURE_SCORES)
        self.gates = nn.Linear(width, STEM_SCORES + PLAIN_SCORES + FEATURE_SCORES)
        with torch.no_grad():
            self.gates.weight[:, : width - features].mul_(STATE_INIT_SCALE)

    def forward(
        self, queries: Tensor, positions: Tensor, symbols: Tensor, sources: Tensor, features: Tensor, *, stems: Tensor,
        links: Tensor, calls: Tensor, **extra: Any,
    ) -> Tensor:  # fmt: skip
        """Returns the scores for ``positions`` int (B, K), whose states and features are ``queries`` (B, K, E).
        ``symbols`` int and ``sources`` bool are (B, L)."""
        (B, K), L = positions.shape, symbols.shape[1]
        source_stems = (stems[:, :L, 0] * sources)[:, None, :, None]
        past = torch.arange(L, device=symbols.device) <= positions[..., None]
        shared = (rows_at(stems, positions)[:, :, None] == source_stems) & (source_stems > 0) & past[..., None]
        names = torch.stack([part.any(-1) for part in shared.chunk(2, -1)], 2).to(queries.dtype)
        near = self.near(names.flatten(0, 1)).view(B, K, STEM_SCORES, L)
        linked = rows_at(links, positions) @ links[:, :L].transpose(1, 2)
        current, previous = symbols.gather(1, positions), symbols.gather(1, (positions - 1).clamp_min(0))
        continues_one = current[..., None] == F.pad(symbols, (1, 0))[:, None, :L]
        continues_two = continues_one & (previous[..., None] == F.pad(symbols, (2, 0))[:, None, :L])
        calls = calls[:, :L]
        in_any_call = (calls[:, None] > 0) & past
        in_this_call = in_any_call & (calls[:, None] == calls.gather(1, positions)[..., None])
        same_symbol = (symbols[:, :, None] == symbols[:, None]).to(queries.dtype)
        written = [(part.to(queries.dtype) @ same_symbol).clamp_max(1) for part in (in_any_call, in_this_call)]
        plain = torch.stack([linked, continues_one.to(linked), continues_two.to(linked), *written], 2)
        worth = self.worth(features).transpose(1, 2)[:, None].expand(-1, K, -1, -1)
        gates = GATE_SCALE * self.gates(queries)
        return (gates[:, :, None] @ torch.cat((near, plain, worth), 2)).squeeze(2)
