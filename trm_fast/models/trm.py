"""The Tiny Recursive Model: embedding, recursion and heads joined; one supervision step is one call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trm_fast.models.config import Depth, TRMConfig
from trm_fast.models.embedding import InputEmbedding
from trm_fast.models.heads import HEADS, Head
from trm_fast.models.loss import Loss
from trm_fast.models.q_head import QHead
from trm_fast.nn import fp8
from trm_fast.nn.block import Network
from trm_fast.nn.layers import Linear, truncated_normal_
from trm_fast.nn.precision import CAST_AT_USE, Precision, WeightCopies
from trm_fast.nn.recursion import Fusion, Recursion, State, fusion, read_answer


@dataclass(frozen=True)
class ForwardOptions:
    """How a supervision step is computed: nothing here changes what it means.

    ``depth``: that of the configuration where it is None. ``precision``: with the copies of weights that there are.
    ``no_grad_products``: FP8 in training's cycles without gradient. ``recompute``: latent steps are computed again in
    the backward, which takes less memory and a third more time. ``static_shapes``: no shape may depend on what a mask
    holds, for the step is recorded or exported.
    """

    depth: Depth | None = None
    precision: Precision = CAST_AT_USE
    no_grad_products: fp8.Mode | None = None
    recompute: bool = False
    static_shapes: bool = False


DEFAULT_OPTIONS = ForwardOptions()


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
        self.net = Network(config.network)
        self.head: Head = HEADS[config.head.kind](config.head, config.head_inputs)
        self.q_head = QHead(config.head_inputs)
        # Not parameters: the start of recursion is never trained, and puzzle rows have an optimizer of their own.
        # States of their own widths start at zero, where nothing drowns the question.
        start = partial(truncated_normal_, std=1.0) if config.latent_width is None else nn.init.zeros_
        self.register_buffer("z_init", start(torch.empty(config.latent_width or config.hidden_size)))
        y = None if config.state == "single" else start(torch.empty(config.answer_width or config.hidden_size))
        self.register_buffer("y_init", y)
        rows = torch.zeros(config.num_puzzles, config.puzzle_embedding_size) if config.prefix_tokens else None
        self.register_buffer("puzzle_embedding", rows)

    @classmethod
    def count_parameters(cls, config: TRMConfig) -> int:
        """Trained numbers of a model of this configuration, which is not built in memory."""
        with torch.device("meta"):
            return cls(config).num_parameters()

    def num_parameters(self) -> int:
        """Trained numbers, the puzzle embedding included."""
        rows = 0 if self.puzzle_embedding is None else self.puzzle_embedding.numel()
        return rows + sum(p.numel() for p in self.parameters())

    def linear_weights(self) -> list[Tensor]:
        """Of every linear map: what products round to the activations' dtype."""
        return [part.weight for part in self.modules() if isinstance(part, Linear)]

    def weight_copies(self, z: Tensor) -> WeightCopies:
        """Copies of the linear maps' weights in the dtype of ``z``, a state as the network will see it, for an
        optimizer that keeps them up to date."""
        packs = fusion(self.net, z) is Fusion.PACKED
        return WeightCopies(self.linear_weights(), z, self.net.weights() if packs else ())

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
        *,
        options: ForwardOptions = DEFAULT_OPTIONS,
        **extra: Tensor,
    ) -> Output:
        """One supervision step: T - 1 cycles without gradient, one with.

        inputs (B, L) int, or (B, L, F) values; puzzle_rows (B, E) in a model with a prefix; mask (B, L) bool, False on
        padding; ``extra``: what else the embedding and the head of this model take.
        """
        depth, precision = options.depth or self.config.depth, options.precision
        x = self.embedding(inputs, puzzle_rows, self.compute_dtype, precision, **extra)
        seen, whole = mask, state
        if mask is not None:
            seen = F.pad(mask, (self.config.prefix_tokens, 0), value=True)
            if not options.static_shapes:
                x, state, seen = self._without_padding(x, state, seen)
        recursion = Recursion(self.net, x, seen, depth.n_latent_steps, precision)
        if torch.is_grad_enabled():
            if depth.T_cycles > 1:
                low = options.no_grad_products and fp8.Fp8Precision(options.no_grad_products, recursion.precision)
                with torch.no_grad():
                    state = recursion.without_gradient(low).run(state, x, depth.T_cycles - 1)
            state = recursion.run_recomputed(state, x) if options.recompute else recursion.run(state, x)
        else:  # all cycles are alike, and one call
            state = recursion.run(state, x, depth.T_cycles)
        state = state.extended(whole)
        answer = read_answer(self.net, state, precision)
        logits = self.head(
            answer, inputs=inputs, mask=mask, precision=precision, static_shapes=options.static_shapes, **extra
        )
        return Output(state.detach(), logits, self.q_head(answer, mask))

    def _without_padding(self, x: Tensor, state: State, seen: Tensor) -> tuple[Tensor, State, Tensor | None]:
        """The positions up to the longest row's last one, and no mask where that leaves no padding: a batch of rows of
        like length costs what it holds. A token mixer has a weight for every position, and a GPU's graph a fixed shape:
        they keep the padding."""
        if self.config.mixing != "attention" or x.device.type != "cpu":
            return x, state, seen
        count = max(1, int((seen.any(0) * torch.arange(1, seen.shape[1] + 1)).max()))
        seen = seen[:, :count]
        return x[:, :count], state.positions(count), None if bool(seen.all()) else seen

    def loss(self, out: Output, labels: Tensor, **extra: Any) -> Loss:
        """The loss of a supervision step against the labels of its rows."""
        loss: Loss = self.head.loss(out.logits, out.q, labels, **extra)
        return loss
