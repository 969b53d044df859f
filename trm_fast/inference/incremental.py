"""Incremental decoding: a causal model computes each position once, because later tokens do not change it."""

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
    """Computes a causal text model's logits for a row that is extended step by step. They equal those for the whole
    row.

    ``extend`` applies the network to the new positions only, and keeps the keys and values of each application and
    layer. It always runs all supervision steps. ``fork`` returns a copy for another continuation.

    Raises:
        ValueError: the model is not causal, has no text head, or has a prefix or learned positions.
    """

    def __init__(self, model: TRMModel) -> None:
        if model.config.head.kind != "text":
            raise ValueError("incremental decoding needs a model with a text head")
        if not model.config.causal or model.config.prefix_tokens or model.config.positions not in ("none", "rope"):
            raise ValueError("incremental decoding needs a causal model without prefix, with positions rope or none")
        self.model, self.length = model, 0
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.inputs: dict[str, Tensor] = {}
        self.answer: Tensor | None = None

    def fork(self) -> Incremental:
        """A copy that can be extended independently."""
        other = Incremental(self.model)
        other.length, other.kept = self.length, list(self.kept)
        other.inputs, other.answer = dict(self.inputs), self.answer
        return other

    @property
    def free(self) -> int:
        """Number of tokens that can still be added."""
        return self.model.config.seq_len - self.length

    @property
    def steps(self) -> int:
        """Number of supervision steps per token."""
        return self.model.config.max_supervision_steps

    @torch.no_grad()
    def extend(
        self, inputs: Sequence[int] | npt.NDArray[Any], extra: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> npt.NDArray[np.float32]:
        """Adds tokens and returns the logits float32 (V,) of the symbol after them.

        Args:
            inputs: tokens int (n,), or bags of tokens int (n, W).
            extra: further arrays (n, ...) for the new positions by name.

        Raises:
            ValueError: the row would be longer than the model's ``seq_len``.
        """
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
        self.inputs = {
            name: torch.cat((self.inputs[name], part), 1) if name in self.inputs else part for name, part in new.items()
        }
        prediction = self.model.head(self.answer, last_only=True, **self.inputs)
        logits: npt.NDArray[np.float32] = prediction.scores[0, -1].float().cpu().numpy()
        return logits

    def _apply(self, h: Tensor) -> Tensor:
        for block in self.model.net.blocks:
            mix, mlp = cast(Block, block).mix, cast(Block, block).mlp
            part = cast(Attention, mix.part)
            h = h + self._attend(part, mix.norm(h)) if mix.pre else mix.norm(self._attend(part, h), residual=h)
            h = mlp(h, None)
        result: Tensor = self.model.net.last_norm(h)
        return result

    def _attend(self, part: Attention, x: Tensor) -> Tensor:
        _, K, D = x.shape
        q, k, v = part.qkv(x).view(1, K, 3, part.heads, D // part.heads).unbind(2)
        if part.rotary is not None:
            q, k = part.rotary(q, self.length), part.rotary(k, self.length)
        if self._next < len(self.kept):
            previous = self.kept[self._next]
            k, v = torch.cat((previous[0], k), 1), torch.cat((previous[1], v), 1)
            self.kept[self._next] = (k, v)
        else:
            self.kept.append((k, v))
        self._next += 1
        visible = torch.ones(K, k.shape[1], dtype=torch.bool, device=x.device).tril(k.shape[1] - K)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=visible)
        return part.out(y.transpose(1, 2).reshape(1, K, D))


def _without_inputs(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: array for name, array in arrays.items() if name != "inputs"}
