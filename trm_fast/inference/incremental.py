"""A causal model one token at a time: what a place holds never changes when tokens follow, so it is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.models.trm import TRMModel
from trm_fast.nn.block import Block
from trm_fast.nn.layers import Attention
from trm_fast.nn.precision import CAST_AT_USE
from trm_fast.nn.recursion import cycle, read_answer


class Incremental:
    """The logits of a causal text model behind a growing row, exactly those of the whole row anew.

    ``extend`` runs every application of every supervision step for the new places alone; keys and values of each
    application and layer stay. It always takes all supervision steps. ``fork`` is a copy for another continuation.
    """

    def __init__(self, model: TRMModel) -> None:
        if model.config.head.kind != "text":
            raise ValueError("one token at a time needs a model with a head of text")
        if not model.config.causal or model.config.prefix_tokens or model.config.positions not in ("none", "rope"):
            raise ValueError("one token at a time needs a causal model without a prefix, its positions rope or none")
        self.model, self.length = model, 0
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.given: dict[str, Tensor] = {}
        self.answer: Tensor | None = None

    def fork(self) -> Incremental:
        other = Incremental(self.model)
        other.length, other.kept = self.length, list(self.kept)
        other.given, other.answer = dict(self.given), self.answer
        return other

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return self.model.config.seq_len - self.length

    @property
    def steps(self) -> int:
        """Supervision steps that each token takes."""
        return self.model.config.max_supervision_steps

    @torch.no_grad()
    def extend(
        self, inputs: Sequence[int] | npt.NDArray[Any], extra: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits (V,) for the symbol behind the new places. ``inputs`` (n,), or (n, W) where they are bags; ``extra``:
        their further arrays (n, ...) by name."""
        config, device = self.model.config, self.model.z_init.device
        ids = torch.as_tensor(np.asarray(inputs, dtype=np.int64), device=device)
        if self.length + len(ids) > config.seq_len:
            raise ValueError(f"the row would have {self.length + len(ids)} tokens; the model has {config.seq_len}")
        new = {name: torch.as_tensor(array, device=device)[None] for name, array in (extra or {}).items()}
        new["inputs"] = ids[None]
        x = self.model.embedding(new["inputs"], None, self.model.compute_dtype, **_without_inputs(new))
        net, state = self.model.net, self.model.initial_state(1).positions(len(ids))
        self._next = 0
        for _ in range(config.max_supervision_steps * config.T_cycles):
            state = cycle(self._apply, net, state, x, config.n_latent_steps, CAST_AT_USE)
        self.length += len(ids)
        answer = read_answer(net, state)
        self.answer = answer if self.answer is None else torch.cat((self.answer, answer), 1)
        self.given = {
            name: torch.cat((self.given[name], part), 1) if name in self.given else part for name, part in new.items()
        }
        said = self.model.head(self.answer, last_only=True, **self.given)
        logits: npt.NDArray[np.float32] = said.scores[0, -1].float().cpu().numpy()
        return logits

    def _apply(self, h: Tensor) -> Tensor:
        for block in self.model.net.blocks:
            mix, mlp = cast(Block, block).mix, cast(Block, block).mlp
            part = cast(Attention, mix.part)
            h = h + self._attend(part, mix.norm(h)) if mix.pre else mix.norm(self._attend(part, h), residual=h)
            h = mlp(h, None)
        made: Tensor = self.model.net.last_norm(h)
        return made

    def _attend(self, part: Attention, x: Tensor) -> Tensor:
        _, K, D = x.shape
        q, k, v = part.qkv(x).view(1, K, 3, part.heads, D // part.heads).unbind(2)
        if part.rotary is not None:
            q, k = part.rotary(q, self.length), part.rotary(k, self.length)
        if self._next < len(self.kept):
            before = self.kept[self._next]
            k, v = torch.cat((before[0], k), 1), torch.cat((before[1], v), 1)
            self.kept[self._next] = (k, v)
        else:
            self.kept.append((k, v))
        self._next += 1
        seen = torch.ones(K, k.shape[1], dtype=torch.bool, device=x.device).tril(k.shape[1] - K)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen)
        return part.out(y.transpose(1, 2).reshape(1, K, D))


def _without_inputs(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: array for name, array in arrays.items() if name != "inputs"}
