"""The input embedding: a prefix, then tokens, values or bags of tokens with positions, roles and features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast.models.config import TRMConfig
from trm_fast.nn.layers import Embedding, Linear
from trm_fast.nn.precision import CAST_AT_USE, Precision


class InputEmbedding(nn.Module):
    """Embeds the inputs, adds positions, roles and features if the model has them, and prepends the prefix."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.prefix_tokens, self.hidden_size = config.prefix_tokens, D
        self.symbols, self.special_tokens = config.num_symbols, config.special_tokens
        # With an axis of symbols: the special tokens, "the token is this symbol" and "it is another symbol".
        kinds = config.special_tokens + 2 if self.symbols else config.vocab_size
        self.tokens = None if config.inputs == "values" else Embedding(kinds, D)
        self.bags = config.inputs == "bags"
        self.features = Linear(config.features, D) if config.features else None
        self.values = Linear(config.input_width, D) if config.inputs == "values" else None
        self.positions = Embedding(config.total_tokens, D) if config.positions == "learned" else None
        self.roles = Embedding(config.roles, D) if config.roles else None
        self.rows = self.columns = None
        if config.positions == "grid" and config.grid_shape is not None:
            self.rows, self.columns = (Embedding(count, D) for count in config.grid_shape)

    def forward(
        self,
        inputs: Tensor,
        puzzle_rows: Tensor | None,
        dtype: torch.dtype,
        precision: Precision = CAST_AT_USE,
        **extra: Tensor,
    ) -> Tensor:
        """Returns the input embedding x (B, P + L, D) with variance 1, where P is the length of the prefix.

        Args:
            inputs: tokens int (B, L), values (B, L, F), or bags of tokens int (B, L, W), padded with 0.
            puzzle_rows: (B, E), each puzzle's row of the puzzle embedding; needed if the model has a prefix.
            dtype: dtype of the result.
            precision: how products use the weights.
            extra: ``roles`` int (B, L) and ``features`` (B, L, F) if the model has them. Others are ignored.

        Raises:
            ValueError: the model has a prefix and ``puzzle_rows`` is missing.
        """
        P, D = self.prefix_tokens, self.hidden_size
        x = self._embedded(inputs, dtype, precision)
        if self.roles is not None:
            x = math.sqrt(0.5) * (x + F.embedding(extra["roles"], self.roles.weight.to(dtype)))
        if self.features is not None:
            x = math.sqrt(0.5) * (x + self.features(extra["features"].to(dtype), precision) / math.sqrt(D))
        if P:
            if puzzle_rows is None:
                raise ValueError(f"this model has {P} prefix tokens: give puzzle_rows (B, puzzle_embedding_size)")
            prefix = F.pad(puzzle_rows.to(dtype), (0, P * D - puzzle_rows.shape[-1]))
            x = torch.cat((prefix.view(-1, P, D), x), dim=1)
        position = self._position()
        if position is not None:
            x = math.sqrt(0.5) * (x + position.to(dtype))  # keeps the variance
        return math.sqrt(D) * x

    def _embedded(self, inputs: Tensor, dtype: torch.dtype, precision: Precision) -> Tensor:
        """The inputs (B, L, D) with variance 1/D, which ``forward`` scales up to 1."""
        if self.tokens is not None and self.bags:
            counts = (inputs != 0).sum(-1, keepdim=True)
            sums = F.embedding_bag(inputs.flatten(0, 1), self.tokens.weight, mode="sum", padding_idx=0)
            return (sums.view(*inputs.shape[:2], -1) * counts.clamp_min(1).rsqrt()).to(dtype)
        if self.tokens is not None:
            if self.symbols:
                inputs = self._kinds(inputs)
            return F.embedding(inputs, self.tokens.weight.to(dtype))
        assert self.values is not None
        return self.values(inputs.to(dtype), precision) / math.sqrt(self.hidden_size)

    def _kinds(self, inputs: Tensor) -> Tensor:
        """The kind of each token (B, L) as each symbol sees it, (B, L * symbols)."""
        S = self.special_tokens
        symbol = torch.arange(self.symbols, device=inputs.device) + S
        token = inputs.unsqueeze(-1)
        kinds = torch.where(token < S, token, torch.where(token == symbol, S, S + 1))
        return kinds.flatten(1)

    def _position(self) -> Tensor | None:
        if self.positions is not None:
            return self.positions.weight
        if self.rows is None or self.columns is None:
            return None
        grid = (self.rows.weight[:, None] + self.columns.weight[None]) * math.sqrt(0.5)
        return F.pad(grid.flatten(0, 1), (0, 0, self.prefix_tokens, 0))  # the prefix is not on the grid
