"""The Tiny Recursive Model: embedding, recursion and heads joined; one supervision step is one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trm_fast.models.config import TRMConfig
from trm_fast.models.heads import HEADS, QHead
from trm_fast.models.loss import Loss
from trm_fast.nn import fp8
from trm_fast.nn.block import Network, State, run_cycles
from trm_fast.nn.copies import once
from trm_fast.nn.layers import InputEmbedding, Linear, truncated_normal_


class Output(NamedTuple):
    """One supervision step: the state behind it (detached), the answer head's prediction, such as logits (B, L, V), and
    halting logits q (B,) float32."""

    state: State
    logits: Any
    q: Tensor


class TRMModel(nn.Module):
    """The network of a Tiny Recursive Model (arXiv 2510.04871): embedding, recursion and heads.

    Weights are float32; ``compute_dtype`` (float32 or bfloat16) is what the state and all activations have.
    """

    puzzle_embedding: Tensor | None
    z_init: Tensor
    y_init: Tensor | None

    def __init__(self, config: TRMConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.embedding = InputEmbedding(config)
        self.net = Network(config)
        self.head = HEADS[config.outputs](config)
        self.q_head = QHead(config)
        # Not parameters: the start of recursion is never trained, and puzzle rows have an optimizer of their own.
        # States of their own widths start at zero, where nothing drowns the question.
        z, y = torch.empty(config.latent_width), torch.empty(config.answer_width)
        start = nn.init.zeros_ if config.state_widths == "own" else partial(truncated_normal_, std=1.0)
        self.register_buffer("z_init", start(z))
        self.register_buffer("y_init", start(y) if config.answer_width else None)
        rows = torch.zeros(config.num_puzzles, config.puzzle_embedding_size) if config.prefix_tokens else None
        self.register_buffer("puzzle_embedding", rows)
        self.no_grad_products: fp8.Mode | None = None  # of training's cycles without gradient
        self.recompute = False  # in training, the latent steps: less memory for a third more time

    def num_parameters(self) -> int:
        """Trained numbers, the puzzle embedding included."""
        rows = 0 if self.puzzle_embedding is None else self.puzzle_embedding.numel()
        return rows + sum(p.numel() for p in self.parameters())

    def linear_weights(self) -> list[Tensor]:
        """Of every linear map: what products round to the activations' dtype."""
        return [part.weight for part in self.modules() if isinstance(part, Linear)]

    static_shapes = False
    """Set while a step is recorded or exported: no shape may then depend on what a mask holds."""

    @contextmanager
    def with_static_shapes(self) -> Iterator[None]:
        before, self.static_shapes = self.static_shapes, True
        self.head.static_shapes = True
        try:
            yield
        finally:
            self.static_shapes = before
            self.head.static_shapes = before

    def initial_state(self, batch: int) -> State:
        """The state (B, P + L, D) every example starts from; its parts may have widths of their own."""
        shape = (batch, self.config.total_tokens, -1)
        y, z = (t if t is None else t.to(self.compute_dtype).expand(shape) for t in (self.y_init, self.z_init))
        return State(y, z)  # type: ignore[arg-type]

    def puzzle_rows(self, puzzle_ids: Tensor | None, batch: int) -> Tensor | None:
        """Each example's row of the puzzle embedding (B, E), row 0 by default; None in a model without a prefix."""
        if self.puzzle_embedding is None:
            return None
        if puzzle_ids is None:
            return self.puzzle_embedding[:1].expand(batch, -1)
        return self.puzzle_embedding[puzzle_ids]

    def forward(
        self,
        inputs: Tensor,
        state: State,
        puzzle_rows: Tensor | None = None,
        mask: Tensor | None = None,
        **extra: Tensor,
    ) -> Output:
        """One supervision step: T - 1 cycles without gradient, one with.

        inputs (B, L) int, or (B, L, F) values; puzzle_rows (B, E) in a model with a prefix; mask (B, L) bool, False on
        padding; ``extra``: what else the embedding and the head of this model take.
        """
        x = self.embedding(inputs, puzzle_rows, self.compute_dtype, **extra)
        seen, whole = mask, state
        if mask is not None:
            seen = F.pad(mask, (self.config.prefix_tokens, 0), value=True)
            x, state, seen = self._without_padding(x, state, seen)
        last = int(torch.is_grad_enabled())  # without gradient all cycles are alike, and one call
        with once([] if self.net.packs(x) else self.net.weights(), x.dtype):
            with torch.no_grad(), fp8.products(self.no_grad_products if last else None):
                state = run_cycles(self.net, state, x, self.config, seen, count=self.config.T_cycles - last)
            if last:
                state = run_cycles(self.net, state, x, self.config, seen, recompute=self.recompute)
        state = state.extended(whole)
        answer = self.net.read(state)
        return Output(state.detach(), self.head(answer, inputs=inputs, mask=mask, **extra), self.q_head(answer, mask))

    def _without_padding(self, x: Tensor, state: State, seen: Tensor) -> tuple[Tensor, State, Tensor | None]:
        """The places up to the longest row's last one, and no mask where that leaves no padding: a batch of rows of
        like length costs what it holds. A token mixer has a weight for every place, and a GPU's graph a fixed shape:
        they keep the padding."""
        if self.config.mixing != "attention" or x.device.type != "cpu" or self.static_shapes:
            return x, state, seen
        places = max(1, int((seen.any(0) * torch.arange(1, seen.shape[1] + 1)).max()))
        seen = seen[:, :places]
        return x[:, :places], state.places(places), None if bool(seen.all()) else seen

    def loss(self, out: Output, labels: Tensor, **extra: Any) -> Loss:
        """The loss of a supervision step against the labels of its rows."""
        loss: Loss = self.head.loss(out.logits, out.q, labels, **extra)
        return loss
