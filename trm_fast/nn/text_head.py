"""The head of a causal text model: the next token, said anew or copied from those before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.nn.config import TRMConfig
from trm_fast.nn.layers import Linear
from trm_fast.nn.loss import IGNORE, Loss, row_loss


class Next(NamedTuple):
    """Log probabilities of the token behind some places."""

    scores: Tensor  # float32 (B, K, V)
    places: Tensor  # int64 (B, K)


class TextHead(nn.Module):
    """The token behind each place.

    A pointer (arXiv 1704.04368) mixes a distribution over the vocabulary with one over the places so far, whose tokens
    it copies: values of arguments stand in the request. A place is found by its own state and by that of the place
    before it. ``inputs`` int (B, L) are the tokens; ``weights`` float32 (B, L) say how much a place's loss counts.
    """

    static_shapes = False
    """Set where no shape may depend on what a mask holds (``TRM.with_static_shapes``)."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D, A = config.hidden_size, config.action_dim
        self.prefix_tokens, self.seq_len = config.prefix_tokens, config.seq_len
        self.linear = Linear(D, config.vocab_size)
        self.wanted, self.here, self.before, self.copies = Linear(D, A), Linear(D, A), Linear(D, A), Linear(D, 1)

    def forward(
        self, answer: Tensor, *, inputs: Tensor, mask: Tensor | None = None, weights: Tensor | None = None,
        last: bool = False, **extra: Tensor,
    ) -> Next:  # fmt: skip
        """With ``last`` for the last place alone. On a CPU the places behind the longest row's and those without
        weight are left out: a vocabulary's worth of numbers each is most of the work."""
        places = answer[:, self.prefix_tokens :].float()
        trims = answer.device.type == "cpu" and not self.static_shapes
        if mask is not None and trims:
            places = places[:, : int(mask.sum(1).max())]
        B, L, D = places.shape
        asked = torch.arange(L, device=places.device)[L - 1 if last else 0 :].expand(B, -1)
        if weights is not None and trims and bool((wanted := weights[:, :L] > 0).any()):
            order = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            asked = order[:, : int(wanted.sum(1).max())]
        asking = places.gather(1, asked[..., None].expand(-1, -1, D))
        keys = self.here(places) + F.pad(self.before(places)[:, :-1], (0, 0, 1, 0))
        scores = self.wanted(asking) @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5
        later = torch.arange(L, device=places.device) > asked[..., None]
        found = scores.masked_fill(later, torch.finfo(scores.dtype).min).softmax(-1)
        share = self.copies(asking).sigmoid()
        said = self.linear(asking).softmax(-1) * (1 - share)
        tokens = inputs[:, None, :L].long().expand(-1, asked.shape[1], -1)
        return Next(said.scatter_add(2, tokens, found * share).clamp_min(1e-9).log(), asked)

    def answers(self, prediction: Next) -> Tensor:
        """The likeliest token behind each place (B, most places), 0 where none was asked for."""
        said = prediction.scores.argmax(-1)
        return said.new_zeros(len(said), self.seq_len).scatter(1, prediction.places, said)

    def loss(self, prediction: Next, q: Tensor, labels: Tensor, **extra: Tensor) -> Loss:
        """Cross-entropy, the mean of a row weighted by ``weights``."""
        labels, weights = (t.gather(1, prediction.places) for t in (labels, extra["weights"]))
        valid = labels != IGNORE
        cost = F.nll_loss(
            prediction.scores.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORE, reduction="none"
        ).view(labels.shape)
        share = weights * valid.sum(-1, keepdim=True) / (weights * valid).sum(-1, keepdim=True).clamp_min(1e-6)
        return row_loss(cost * share, prediction.scores.argmax(-1) == labels, valid, q)
