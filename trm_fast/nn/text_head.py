"""The head of a causal text model: the next token, said anew or copied from those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.nn.config import TRMConfig
from trm_fast.nn.layers import Linear
from trm_fast.nn.loss import IGNORE, Loss, row_loss


class TextHead(nn.Module):
    """Log probabilities float32 (B, L, V) of the token behind each place.

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
        self, answer: Tensor, *, inputs: Tensor, mask: Tensor | None = None, last: bool = False, **extra: Tensor
    ) -> Tensor:
        """With ``last`` for the last place alone: (B, 1, V). On a CPU the places behind the longest row's are left
        out, so L may be less than the model has: a vocabulary's worth of numbers each is most of the work."""
        places = answer[:, self.prefix_tokens :].float()
        if mask is not None and mask.device.type == "cpu" and not self.static_shapes:
            places = places[:, : int(mask.sum(1).max())]
        inputs = inputs[:, : places.shape[1]]
        asking = places[:, -1:] if last else places
        keys = self.here(places) + F.pad(self.before(places)[:, :-1], (0, 0, 1, 0))
        scores = self.wanted(asking) @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5
        L = places.shape[1]
        seen = torch.ones(L, L, dtype=torch.bool, device=places.device).tril()[-asking.shape[1] :]
        found = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
        share = self.copies(asking).sigmoid()
        said = self.linear(asking).softmax(-1) * (1 - share)
        tokens = inputs.long()[:, None].expand(-1, asking.shape[1], -1)
        return said.scatter_add(2, tokens, found * share).clamp_min(1e-9).log()

    def answers(self, prediction: Tensor) -> Tensor:
        said = prediction.argmax(-1)
        return F.pad(said, (0, self.seq_len - said.shape[1]))

    def loss(self, prediction: Tensor, q: Tensor, labels: Tensor, **extra: Tensor) -> Loss:
        """Cross-entropy, the mean of a row weighted by ``weights``."""
        L = prediction.shape[1]
        labels, weights = labels[:, :L], extra["weights"][:, :L]
        valid = labels != IGNORE
        cost = F.nll_loss(
            prediction.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORE, reduction="none"
        ).view(labels.shape)
        share = weights * valid.sum(-1, keepdim=True) / (weights * valid).sum(-1, keepdim=True).clamp_min(1e-6)
        return row_loss(cost * share, prediction.argmax(-1) == labels, valid, q)
