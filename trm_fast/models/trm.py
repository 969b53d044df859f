"""The Tiny Recursive Model: embedding, recursion and heads. Calling it runs one supervision step."""

from __future__ import annotations

from collections.abc import Mapping
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
    """How a supervision step is computed.

    Attributes:
        depth: depth of recursion; None: that of the configuration.
        precision: how products use the weights, with copies in low precision if there are any.
        no_grad_products: computes products in FP8 in the cycles without gradient, in training.
        recompute: computes latent steps again in the backward, which takes less memory and a third more time.
        static_shapes: shapes do not depend on the values of the mask; needed if the step is captured or exported.
    """

    depth: Depth | None = None
    precision: Precision = CAST_AT_USE
    no_grad_products: fp8.Mode | None = None
    recompute: bool = False
    static_shapes: bool = False


DEFAULT_OPTIONS = ForwardOptions()


class Output(NamedTuple):
    """The result of a supervision step: the new state (detached), the head's prediction, such as logits (B, L, V), and
    the halting logits q float32 (B,)."""

    state: State
    logits: Any
    q: Tensor


class TRMModel(nn.Module):
    """A Tiny Recursive Model (arXiv 2510.04871): embedding, recursion and heads.

    Args:
        config: shapes and depth of the model.
        compute_dtype: dtype of the state and all activations, float32 or bfloat16. Weights are float32.
    """

    solver_defaults: Mapping[str, Any] = {}
    """The section ``solver`` that the model is stored with: options of ``trm_fast.Solver`` by name."""

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
        # Buffers, not parameters: the initial state is not trained, and the puzzle embedding has its own optimizer.
        # States of configured widths start at zero, because random states would outweigh the question.
        start = partial(truncated_normal_, std=1.0) if config.latent_width is None else nn.init.zeros_
        count = () if config.initial_states == 1 else (config.initial_states,)
        self.register_buffer("z_init", start(torch.empty(*count, config.latent_width or config.hidden_size)))
        width = config.answer_width or config.hidden_size
        y = None if config.state == "single" else start(torch.empty(*count, width))
        self.register_buffer("y_init", y)
        rows = torch.zeros(config.num_puzzles, config.puzzle_embedding_size) if config.prefix_tokens else None
        self.register_buffer("puzzle_embedding", rows)

    @classmethod
    def count_parameters(cls, config: TRMConfig) -> int:
        """Number of trained parameters of a model with this configuration, without allocating them.

        Examples:
            >>> TRMModel.count_parameters(TRMConfig(vocab_size=5, seq_len=4, hidden_size=8, inner_multiple=8))
            1625
        """
        with torch.device("meta"):
            return cls(config).num_parameters()

    def num_parameters(self) -> int:
        """Number of trained parameters, including the puzzle embedding."""
        rows = 0 if self.puzzle_embedding is None else self.puzzle_embedding.numel()
        return rows + sum(p.numel() for p in self.parameters())

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays that ``forward`` needs in ``extra``."""
        config = self.config
        names = [name for name, count in (("roles", config.roles), ("features", config.features)) if count]
        return [*names, *self.head.array_names]

    def linear_weights(self) -> list[Tensor]:
        """The weights of all linear maps, which products round to the activations' dtype."""
        return [part.weight for part in self.modules() if isinstance(part, Linear)]

    def weight_copies(self, z: Tensor) -> WeightCopies:
        """Copies of the linear maps' weights in the dtype of ``z``, for an optimizer that keeps them up to date, except
        of weights that kernels round themselves. ``z`` is a latent state of the shape that the network will process."""
        fused, network = fusion(self.net, z), self.net.weights()
        rounded = {id(w) for w in network} if fused is Fusion.FLOAT32 else set()
        weights = [w for w in self.linear_weights() if id(w) not in rounded]
        return WeightCopies(weights, z, network if fused is Fusion.PACKED else ())

    def initial_state(self, batch: int, numbers: Tensor | None = None) -> State:
        """The states that examples start from, (B, P + L, D). The widths of y and z may be configured.

        Args:
            batch: B.
            numbers: which of the model's initial states each example starts from, int (B,); by default the first.
        """

        def start(vectors: Tensor) -> Tensor:
            vectors = vectors.view(self.config.initial_states, 1, -1).to(self.compute_dtype)
            chosen = vectors[:1] if numbers is None else vectors[numbers]
            return chosen.expand(batch, self.config.total_tokens, -1)

        return State(self.y_init, self.z_init).map(start)

    def first_vectors(self) -> dict[str, Tensor]:
        """The vectors (D,) that all positions of ``z`` and of ``y`` start from, in the first initial state."""
        buffers = {"z": self.z_init, "y": self.y_init}
        return {name: t.view(self.config.initial_states, -1)[0] for name, t in buffers.items() if t is not None}

    def puzzle_rows(self, puzzle_ids: Tensor | None, batch: int) -> Tensor | None:
        """Each example's row of the puzzle embedding, (B, E), by default row 0; None in a model without a prefix."""
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
        """Runs one supervision step: T - 1 cycles without gradient and one with gradient.

        Args:
            inputs: tokens int (B, L), values (B, L, F), or bags of tokens int (B, L, W).
            state: from ``initial_state`` or the previous step.
            puzzle_rows: (B, E), from ``puzzle_rows``; needed if the model has a prefix.
            mask: bool (B, L), False for padding.
            options: how the step is computed.
            extra: further arrays that the model's embedding and head take.
        """
        depth, precision = options.depth or self.config.depth, options.precision
        x = self.embedding(inputs, puzzle_rows, self.compute_dtype, precision, **extra)
        full_mask, whole = mask, state
        if mask is not None:
            full_mask = F.pad(mask, (self.config.prefix_tokens, 0), value=True)
            if not options.static_shapes:
                x, state, full_mask = self._without_padding(x, state, full_mask)
        recursion = Recursion(self.net, x, full_mask, depth.n_latent_steps, precision)
        if torch.is_grad_enabled():
            if depth.T_cycles > 1:
                mode = options.no_grad_products
                fp8_precision = mode and fp8.Fp8Precision(mode, recursion.precision)
                with torch.no_grad():
                    state = recursion.without_gradient(fp8_precision).run(state, x, depth.T_cycles - 1)
            state = recursion.run_recomputed(state, x) if options.recompute else recursion.run(state, x)
        else:  # all cycles in one call
            state = recursion.run(state, x, depth.T_cycles)
        state = state.extended(whole)
        answer = read_answer(self.net, state, precision)
        logits = self.head(
            answer, inputs=inputs, mask=mask, precision=precision, static_shapes=options.static_shapes, **extra
        )
        return Output(state.detach(), logits, self.q_head(answer, mask))

    def _without_padding(self, x: Tensor, state: State, mask: Tensor) -> tuple[Tensor, State, Tensor | None]:
        """Cuts off the padding after the longest row, and drops the mask if no padding is left, so that short rows take
        less time. Padding is kept for a token mixer, which has weights for every position, and on a GPU, where captured
        steps have fixed shapes."""
        if self.config.mixing != "attention" or x.device.type != "cpu":
            return x, state, mask
        count = max(1, int((mask.any(0) * torch.arange(1, mask.shape[1] + 1)).max()))
        mask = mask[:, :count]
        return x[:, :count], state.positions(count), None if bool(mask.all()) else mask

    def loss(self, out: Output, labels: Tensor, **extra: Any) -> Loss:
        """The loss of a supervision step's output with labels (B, ...)."""
        loss: Loss = self.head.loss(out.logits, out.q, labels, **extra)
        return loss
