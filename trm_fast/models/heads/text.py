"""The head of a causal text model: the symbol that comes next, said anew or copied from a place before."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.labels import IGNORE
from trm_fast.models.config import NEAR, REACH, TEXT_NEAR, TEXT_PLAIN, TEXT_WORTH, TRMConfig
from trm_fast.models.loss import Loss, row_loss
from trm_fast.nn.layers import Linear

STEEP = 4.0
"""Of gates: an optimizer that moves all weights alike finds their size in a few steps."""
QUIET = 0.1
"""Of weights that read the network's state beside features, at first: a network that has learnt nothing must not drown
what is known."""


class Next(NamedTuple):
    """Log probabilities of the symbol behind some places."""

    scores: Tensor  # float32 (B, K, V), with the row's own symbols behind the vocabulary
    places: Tensor  # int64 (B, K)


class TextHead(nn.Module):
    """The symbol behind each place.

    A pointer (arXiv 1704.04368) mixes a distribution over the vocabulary with one over the places before, whose symbols
    it copies; saying something anew is one more choice beside the places. A place is found by its own state and those
    of its neighbours, so the last places can't be copied yet.

    ``inputs`` int (B, L) are the symbols, or ``symbols`` (B, L) where a row has its own (``row_symbols``), of which
    ``sources`` bool (B, L) can be copied; ``weights`` float32 (B, L) say how much a place's loss counts. In a model
    with features ``features`` (B, L, F); in one with stems what ``Meeting`` takes.
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D, A = config.hidden_size, config.action_dim
        width = D + config.features
        self.prefix_tokens, self.seq_len, self.own = config.prefix_tokens, config.seq_len, config.row_symbols
        self.linear = Linear(D, config.vocab_size)
        self.wanted, self.anew = Linear(width, A), nn.Linear(width, 1)
        self.near = nn.Conv1d(width, A, 2 * NEAR + 1, padding=NEAR, bias=False)
        self.meeting = Meeting(width, config.features) if config.stems else None
        if config.features:
            with torch.no_grad():
                for weight in (self.wanted.weight, self.near.weight, self.anew.weight):
                    weight[:, :D].mul_(QUIET)

    def forward(
        self, answer: Tensor, *, inputs: Tensor, mask: Tensor | None = None, weights: Tensor | None = None,
        last: bool = False, symbols: Tensor | None = None, sources: Tensor | None = None,
        features: Tensor | None = None, static_shapes: bool = False, **extra: Any,
    ) -> Next:  # fmt: skip
        """With ``last`` for the last place alone. On a CPU the places behind the longest row's and those without
        weight are left out: a vocabulary's worth of numbers each is most of the work."""
        places = answer[:, self.prefix_tokens :].float()
        trims = answer.device.type == "cpu" and not static_shapes
        if mask is not None and trims:
            places = places[:, : int(mask.sum(1).max())]
        B, L, D = places.shape
        every = torch.arange(L, device=places.device)
        asked = every[L - 1 if last else 0 :].expand(B, -1)
        if weights is not None and trims and bool((wanted := weights[:, :L] > 0).any()):
            order = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            asked = order[:, : int(wanted.sum(1).max())]
        known = places if features is None else torch.cat((places, features[:, :L].float()), -1)
        asking = _at(known, asked)
        keys = self.near(known.transpose(1, 2))
        scores = self.wanted(asking) @ keys * keys.shape[1] ** -0.5
        said = (inputs if symbols is None else symbols)[:, :L].long()
        free = (said > 0) if sources is None else sources[:, :L]
        if self.meeting is not None:
            scores = scores + self.meeting(asking, asked, said, free, known[..., D:], **extra)
        within = free[:, None] & (every + NEAR <= asked[..., None])
        scores = scores.masked_fill(~within, torch.finfo(scores.dtype).min)
        found = torch.cat((self.anew(asking), scores), -1).softmax(-1)
        spoken = F.pad(self.linear(asking[..., :D]).softmax(-1) * found[..., :1], (0, self.own))
        tokens = said[:, None].expand(-1, asked.shape[1], -1)
        return Next(spoken.scatter_add(2, tokens, found[..., 1:]).clamp_min(1e-9).log(), asked)

    def answers(self, prediction: Next) -> Tensor:
        """The likeliest symbol behind each place (B, most places), 0 where none was asked for."""
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


class Meeting(nn.Module):
    """What speaks for copying one place behind another, whatever the network makes of them: scores (B, K, L).

    Stems of what is spoken of that stand near the place (``stems`` int (B, L, S), the first half a name's), links that
    both have (``links`` (B, L, T)), that the place goes on with what was just copied, that it was said already
    (``calls`` int (B, L): the number of the call that a place is in, 0 for none), and the place's own features.
    How much each counts is for the asking place to say.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(2, TEXT_NEAR, 2 * REACH + 1, padding=REACH, bias=False)
        self.worth = Linear(features, TEXT_WORTH)
        self.gates = nn.Linear(width, TEXT_NEAR + TEXT_PLAIN + TEXT_WORTH)
        with torch.no_grad():
            self.gates.weight[:, : width - features].mul_(QUIET)

    def forward(
        self, asking: Tensor, asked: Tensor, said: Tensor, free: Tensor, features: Tensor, *, stems: Tensor,
        links: Tensor, calls: Tensor, **rest: Any,
    ) -> Tensor:  # fmt: skip
        """asking (B, K, E) are the places ``asked`` (B, K); ``said`` and ``free`` (B, L) the symbols and sources."""
        (B, K), L = asked.shape, said.shape[1]
        mine = (stems[:, :L, 0] * free)[:, None, :, None]
        past = torch.arange(L, device=said.device) <= asked[..., None]
        met = (_at(stems, asked)[:, :, None] == mine) & (mine > 0) & past[..., None]
        names = torch.stack([part.any(-1) for part in met.chunk(2, -1)], 2).to(asking.dtype)
        near = self.near(names.flatten(0, 1)).view(B, K, TEXT_NEAR, L)
        linked = _at(links, asked) @ links[:, :L].transpose(1, 2)
        now, ago = said.gather(1, asked), said.gather(1, (asked - 1).clamp_min(0))
        one = now[..., None] == F.pad(said, (1, 0))[:, None, :L]
        two = one & (ago[..., None] == F.pad(said, (2, 0))[:, None, :L])
        calls = calls[:, :L]
        before = (calls[:, None] > 0) & past
        here = before & (calls[:, None] == calls.gather(1, asked)[..., None])
        alike = (said[:, :, None] == said[:, None]).to(asking.dtype)
        spoken, here = ((part.to(asking.dtype) @ alike).clamp_max(1) for part in (before, here))
        plain = torch.stack([linked, one.to(linked), two.to(linked), spoken, here], 2)
        worth = self.worth(features).transpose(1, 2)[:, None].expand(-1, K, -1, -1)
        gates = STEEP * self.gates(asking)
        return (gates[:, :, None] @ torch.cat((near, plain, worth), 2)).squeeze(2)


def _at(places: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, D) of places (B, L, D) at index (B, K)."""
    return places.gather(1, index[..., None].expand(-1, -1, places.shape[-1]))
