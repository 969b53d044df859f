"""The parts of a block: linear maps, SwiGLU over channels and over tokens, attention, positions, norms.

Weights are float32; activations may be lower. Nothing has a bias or a learned norm weight (paper, section 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.nn import fp8
from trm_fast.nn.copies import low

if TYPE_CHECKING:
    from trm_fast.models.config import TRMConfig

# A normal variable cut at two standard deviations has 0.8796 of its spread left.
_TRUNCATED_STD = 0.8796256610342398


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fills with a normal cut at two (uncut) deviations, widened so that the result has exactly ``std``."""
    wide = std / _TRUNCATED_STD
    return nn.init.trunc_normal_(tensor, std=wide, a=-2 * wide, b=2 * wide)


class Linear(nn.Module):
    """y = x W^T with W (n_out, n_in), cast to the activations' dtype; initial std 1/sqrt(n_in)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(n_out, n_in), n_in**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        if fp8.active is not None:
            return fp8.active.linear(x, self.weight)
        return F.linear(x, low(self.weight, x.dtype))

    def over_tokens(self, x: Tensor) -> Tensor:
        """The same map over dimension 1 of x (B, n_in, D), in that layout: no transposed copies."""
        return torch.bmm(low(self.weight, x.dtype).expand(x.shape[0], -1, -1), x)


class Embedding(nn.Module):
    """A table (count, D) of initial std 1/sqrt(D)."""

    def __init__(self, count: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(count, hidden_size), hidden_size**-0.5))


class Norm(nn.Module):
    """RMSNorm or LayerNorm without weights, of ``x`` or of ``x + residual``, over dimension ``dim``."""

    def __init__(self, config: TRMConfig, dim: int) -> None:
        super().__init__()
        self.kind, self.eps, self.dim = config.norm, config.norm_eps, dim

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.kind == "rms":
            return ops.rms_norm(x, residual, dim=self.dim, eps=self.eps)
        h = x if residual is None else x + residual
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        h = h - h.mean(self.dim, keepdim=True)
        return ops.rms_norm(h, dim=self.dim, eps=self.eps).to(x.dtype)


class ChannelMLP(nn.Module):
    """SwiGLU over the channels of x (B, L, D)."""

    norm_dim = -1

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        inner = config.inner_size(config.hidden_size)
        self.gate_up = Linear(config.hidden_size, 2 * inner)
        self.down = Linear(inner, config.hidden_size)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.gate_up.weight, self.down.weight

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.down(ops.swiglu(self.gate_up(x)))

    def fused(self, h: Tensor, mask: Tensor | None, eps: float) -> Tensor | None:
        """norm(h + forward(h)) in one call, where there is a kernel for it; None where there is none."""
        if fp8.active is not None or not ops.backend.has_kernel("mlp", h):
            return None
        gate_up, down = (low(weight, h.dtype) for weight in self.weights())
        return ops.mlp(h, gate_up, down, eps)


class TokenMixer(nn.Module):
    """SwiGLU over the tokens of x (B, L, D), each channel alike; its norm runs over tokens, too.

    Masked tokens are read as zeros, so what padding holds never reaches the others.
    """

    norm_dim = 1

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        inner = config.inner_size(config.total_tokens)
        self.gate_up = Linear(config.total_tokens, 2 * inner)
        self.down = Linear(inner, config.total_tokens)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.gate_up.weight, self.down.weight

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return self.down.over_tokens(ops.swiglu(self.gate_up.over_tokens(x), dim=1))

    def fused(self, h: Tensor, mask: Tensor | None, eps: float) -> Tensor | None:
        """As that of ``ChannelMLP``; padding in ``h`` is zero already."""
        if not ops.backend.has_kernel("token_mixer", h):
            return None
        gate_up, down = (low(weight, h.dtype) for weight in self.weights())
        return ops.token_mixer(h, gate_up, down, eps)


class Attention(nn.Module):
    """Multi-head attention over x (B, L, D), with rotary positions where the configuration asks for them."""

    norm_dim = -1

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.causal = config.num_heads, config.causal
        self.qkv = Linear(D, 3 * D)
        self.out = Linear(D, D)
        self.rotary = Rotary(config) if config.positions == "rope" else None

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.qkv.weight, self.out.weight

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self._seen(mask, L), is_causal=self.causal and mask is None
        )
        return self.out(y.transpose(1, 2).reshape(B, L, D))

    def fused(self, h: Tensor, mask: Tensor | None, eps: float) -> Tensor | None:
        """As that of ``ChannelMLP``."""
        masked = mask is not None or self.causal
        if fp8.active is not None or not ops.backend.has_kernel("attention", h, masked):
            return None
        rotary = None if self.rotary is None else self.rotary.tables(h.shape[1])
        qkv, out = (low(weight, h.dtype) for weight in self.weights())
        return ops.attention(h, qkv, out, self.heads, rotary, eps, mask, self.causal)

    def _seen(self, mask: Tensor | None, L: int) -> Tensor | None:
        """Which key each query may see, (B, 1, L, L); a token always sees itself, so no row is empty."""
        if mask is None:
            return None
        seen = mask[:, None, None, :].expand(-1, 1, L, -1)
        place = torch.arange(L, device=mask.device)  # compared, not eye and tril: ONNX runtimes lack those for bool
        if self.causal:
            seen = seen & (place[:, None] >= place)
        return seen | (place[:, None] == place)


class Rotary(nn.Module):
    """Rotary positions, halves rotated against each other, computed in float32."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        width = config.hidden_size // config.num_heads
        frequencies = config.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(config.total_tokens, dtype=torch.float32), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos().unsqueeze(1), persistent=False)
        self.register_buffer("sin", angles.sin().unsqueeze(1), persistent=False)

    def tables(self, tokens: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (tokens, width) each."""
        return self.cos[:tokens].squeeze(1), self.sin[:tokens].squeeze(1)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x (B, L, heads, width), its places from ``first`` on; L may be less than the model has."""
        at = slice(first, first + x.shape[1])
        f = x.to(torch.promote_types(x.dtype, torch.float32))
        a, b = f.chunk(2, dim=-1)
        return (f * self.cos[at] + torch.cat((-b, a), -1) * self.sin[at]).to(x.dtype)


class InputEmbedding(nn.Module):
    """Tokens (B, L), values (B, L, F) or bags of tokens (B, L, W), 0 for none, and the puzzle rows where there is a
    prefix, as x (B, P + L, D) of variance 1.

    ``extra`` are the examples' further arrays, for embeddings that add some of them.
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.prefix_tokens, self.hidden_size = config.prefix_tokens, D
        self.tokens = None if config.inputs == "values" else Embedding(config.vocab_size, D)
        self.bags = config.inputs == "bags"
        self.features = Linear(config.features, D) if config.features else None
        self.values = Linear(config.input_width, D) if config.inputs == "values" else None
        self.positions = Embedding(config.total_tokens, D) if config.positions == "learned" else None
        self.roles = Embedding(config.roles, D) if config.roles else None
        self.rows = self.columns = None
        if config.positions == "grid" and config.grid_shape is not None:
            self.rows, self.columns = (Embedding(count, D) for count in config.grid_shape)

    def forward(self, inputs: Tensor, puzzle_rows: Tensor | None, dtype: torch.dtype, **extra: Tensor) -> Tensor:
        P, D = self.prefix_tokens, self.hidden_size
        x = self._places(inputs, dtype)
        if self.roles is not None:
            x = math.sqrt(0.5) * (x + F.embedding(extra["roles"], self.roles.weight.to(dtype)))
        if self.features is not None:
            x = math.sqrt(0.5) * (x + self.features(extra["features"].to(dtype)) / math.sqrt(D))
        if P:
            if puzzle_rows is None:
                raise ValueError(f"this model has {P} prefix tokens: give puzzle_rows (B, puzzle_embedding_size)")
            prefix = F.pad(puzzle_rows.to(dtype), (0, P * D - puzzle_rows.shape[-1]))
            x = torch.cat((prefix.view(-1, P, D), x), dim=1)
        position = self._position()
        if position is not None:
            x = math.sqrt(0.5) * (x + position.to(dtype))  # the sum of two has the variance of one
        return math.sqrt(D) * x

    def _places(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L, D), of variance 1/D like every row here: all are scaled up together."""
        if self.tokens is not None and self.bags:
            counts = (inputs != 0).sum(-1, keepdim=True)
            sums = F.embedding_bag(inputs.flatten(0, 1), self.tokens.weight, mode="sum", padding_idx=0)
            return (sums.view(*inputs.shape[:2], -1) * counts.clamp_min(1).rsqrt()).to(dtype)
        if self.tokens is not None:
            return F.embedding(inputs, self.tokens.weight.to(dtype))
        assert self.values is not None
        return self.values(inputs.to(dtype)) / math.sqrt(self.hidden_size)

    def _position(self) -> Tensor | None:
        if self.positions is not None:
            return self.positions.weight
        if self.rows is None or self.columns is None:
            return None
        grid = (self.rows.weight[:, None] + self.columns.weight[None]) * math.sqrt(0.5)
        return F.pad(grid.flatten(0, 1), (0, 0, self.prefix_tokens, 0))  # the prefix has no place on the grid
