"""The parts of a layer: linear maps, SwiGLU over channels and over tokens, attention, rotary positions, norms.

Weights are float32; activations may have lower precision (``Precision``). There are no biases, and norms have no
learned weights (paper, section 4).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.nn.config import NetworkConfig
from trm_fast.nn.groups import partitions
from trm_fast.nn.precision import CAST_AT_USE, Precision
from trm_fast.ops.group_mixer import group_means

# Standard deviation of a standard normal distribution truncated at -2 and 2.
_TRUNCATED_STD = 0.8796256610342398


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fills a tensor from a normal distribution that is truncated at two standard deviations and scaled so that its
    standard deviation is ``std`` after truncation."""
    untruncated = std / _TRUNCATED_STD
    return nn.init.trunc_normal_(tensor, std=untruncated, a=-2 * untruncated, b=2 * untruncated)


class Linear(nn.Module):
    """y = x W^T with W (n_out, n_in) cast to the dtype of x (..., n_in). Initial standard deviation: 1/sqrt(n_in)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(n_out, n_in), n_in**-0.5))

    def forward(self, x: Tensor, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns y (..., n_out) for x (..., n_in)."""
        return precision.linear(x, self.weight)

    def over_tokens(self, x: Tensor, precision: Precision = CAST_AT_USE) -> Tensor:
        """Applies the map over dimension 1 of x (B, n_in, D), without transposing x."""
        return torch.bmm(precision.cached_cast(self.weight, x.dtype).expand(x.shape[0], -1, -1), x)


class Embedding(nn.Module):
    """A table (count, D), with initial standard deviation 1/sqrt(D)."""

    def __init__(self, count: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(count, hidden_size), hidden_size**-0.5))


class Norm(nn.Module):
    """RMSNorm of ``x`` or of ``x + residual`` over dimension ``dim``, without learned weights."""

    def __init__(self, config: NetworkConfig, dim: int) -> None:
        super().__init__()
        self.eps, self.dim = config.norm_eps, dim

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The norm, in the shape and dtype of x."""
        return ops.rms_norm(x, residual, dim=self.dim, eps=self.eps)


def gated_norm(gate_up: Tensor, dim: int, eps: float) -> Tensor:
    """``sigmoid(gate) * RMSNorm(gate * up)``; the halves along ``dim`` are gate and up (arXiv 2601.19085).

    Examples:
        >>> gated_norm(torch.tensor([[0.0, 4.0, 1.0, 1.0]]), dim=-1, eps=0.0)
        tensor([[0.0000, 1.3888]])
    """
    gate, up = gate_up.chunk(2, dim=dim)
    return gate.sigmoid() * ops.rms_norm(gate * up, dim=dim, eps=eps)


class SwiGLU(nn.Module):
    """The base class of SwiGLU over channels and over tokens: maps ``width`` numbers to the inner width and back."""

    def __init__(self, width: int, config: NetworkConfig, parts: int = 1) -> None:
        """``parts``: how many times ``width`` numbers the first map reads."""
        super().__init__()
        self.gated_norm, self.eps = config.activation == "gated_norm", config.norm_eps
        inner = config.inner_size(width)
        self.gate_up = Linear(parts * width, 2 * inner)
        self.down = Linear(inner, width)

    def activate(self, gate_up: Tensor, dim: int = -1) -> Tensor:
        """The inner numbers, from the first product."""
        return gated_norm(gate_up, dim, self.eps) if self.gated_norm else ops.swiglu(gate_up, dim=dim)

    def weights(self) -> tuple[Tensor, Tensor]:
        """The two weights, as the fused ops take them."""
        return self.gate_up.weight, self.down.weight

    def masked(self, mask: Tensor | None) -> bool:
        """Whether the fused op must support masks. It need not, because a token mixer's input is zero on padding."""
        return False


class ChannelMLP(SwiGLU):
    """SwiGLU over the channels of x (B, L, D)."""

    norm_dim: ClassVar[int] = -1
    op: ClassVar[str] = "mlp"
    """The op that ``fused`` calls."""
    over_channels: ClassVar[bool] = True

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.hidden_size, config)

    def forward(self, x: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns y (B, L, D) for x (B, L, D); the mask is not used."""
        return self.down(self.activate(self.gate_up(x, precision)), precision)

    def fused(self, h: Tensor, mask: Tensor | None, eps: float, precision: Precision) -> Tensor:
        """norm(h + forward(h)) in one call of an op."""
        gate_up, down = (precision.cached_cast(weight, h.dtype) for weight in self.weights())
        return ops.mlp(h, gate_up, down, eps)


class TokenMixer(SwiGLU):
    """SwiGLU over the tokens of x (B, L, D), the same for every channel. Its norm is also over tokens.

    Padding is read as zeros, so that it does not affect other tokens.
    """

    norm_dim: ClassVar[int] = 1
    op: ClassVar[str] = "token_mixer"
    over_channels: ClassVar[bool] = False

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.tokens, config)

    def forward(self, x: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns y (B, L, D) for x (B, L, D). mask: bool (B, L), False for padding."""
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return self.down.over_tokens(self.activate(self.gate_up.over_tokens(x, precision), dim=1), precision)

    def fused(self, h: Tensor, mask: Tensor | None, eps: float, precision: Precision) -> Tensor:
        """norm(h + forward(h)) in one call of an op."""
        gate_up, down = (precision.cached_cast(weight, h.dtype) for weight in self.weights())
        return ops.token_mixer(h, gate_up, down, eps)


class GroupMixer(SwiGLU):
    """SwiGLU over the channels of x (B, L, D) and of its means over groups of positions. It has no mask."""

    norm_dim: ClassVar[int] = -1
    op: ClassVar[str] = "group_mixer"
    over_channels: ClassVar[bool] = True
    groups: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        device = torch.empty(0).device
        with torch.device("cpu"):  # a device without memory cannot number the groups
            groups = partitions(config.groups, config.grid, config.prefix, config.symbols).to(device)
        super().__init__(config.hidden_size, config, parts=1 + len(groups))
        self.scale = config.group_scale
        self.register_buffer("groups", groups, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """y (B, L, D) of x (B, L, D)."""
        read = torch.cat([x, *(self.scale * group_means(x, group) for group in self.groups)], dim=-1)
        return self.down(self.activate(self.gate_up(read, precision)), precision)

    def fused(self, h: Tensor, mask: Tensor | None, eps: float, precision: Precision) -> Tensor:
        """norm(h + forward(h)) in one call of an op."""
        gate_up, down = (precision.cached_cast(weight, h.dtype) for weight in self.weights())
        return ops.group_mixer(h, gate_up, down, self.groups, self.scale, eps)


class Attention(nn.Module):
    """Multi-head attention over x (B, L, D), with rotary positions if ``rope_theta`` is set."""

    norm_dim: ClassVar[int] = -1
    op: ClassVar[str] = "attention"
    over_channels: ClassVar[bool] = True

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.causal = config.num_heads, config.causal
        self.qkv = Linear(D, 3 * D)
        self.out = Linear(D, D)
        self.rotary = None if config.rope_theta is None else Rotary(config, config.rope_theta)

    def weights(self) -> tuple[Tensor, Tensor]:
        """The two weights, as the fused op takes them."""
        return self.qkv.weight, self.out.weight

    def masked(self, mask: Tensor | None) -> bool:
        """Whether the fused op must support masks, for padding or causal order."""
        return mask is not None or self.causal

    def forward(self, x: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns y (B, L, D) for x (B, L, D). mask: bool (B, L), False for padding."""
        B, L, D = x.shape
        q, k, v = self.qkv(x, precision).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self._visible(mask, L), is_causal=self.causal and mask is None
        )
        return self.out(y.transpose(1, 2).reshape(B, L, D), precision)

    def fused(self, h: Tensor, mask: Tensor | None, eps: float, precision: Precision) -> Tensor:
        """norm(h + forward(h)) in one call of an op."""
        rotary = None if self.rotary is None else self.rotary.tables(h.shape[1])
        qkv, out = (precision.cached_cast(weight, h.dtype) for weight in self.weights())
        return ops.attention(h, qkv, out, self.heads, rotary, eps, mask, self.causal)

    def _visible(self, mask: Tensor | None, L: int) -> Tensor | None:
        """Which keys each query attends to, bool (B, 1, L, L). Every token attends to itself, so no row is empty."""
        if mask is None:
            return None
        visible = mask[:, None, None, :].expand(-1, 1, L, -1)
        position = torch.arange(L, device=mask.device)  # not eye and tril, which ONNX runtimes lack for bool
        if self.causal:
            visible = visible & (position[:, None] >= position)
        return visible | (position[:, None] == position)


class Rotary(nn.Module):
    """Rotary positions: rotates the two halves of each head's channels, in float32 or higher."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: NetworkConfig, theta: float) -> None:
        super().__init__()
        width = config.hidden_size // config.num_heads
        frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(config.tokens, dtype=torch.float32), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos().unsqueeze(1), persistent=False)
        self.register_buffer("sin", angles.sin().unsqueeze(1), persistent=False)

    def tables(self, tokens: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the first ``tokens`` positions, (tokens, width) each."""
        return self.cos[:tokens].squeeze(1), self.sin[:tokens].squeeze(1)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Rotates x (B, L, heads, width), whose first position is ``first``."""
        at = slice(first, first + x.shape[1])
        f = x.to(torch.promote_types(x.dtype, torch.float32))
        a, b = f.chunk(2, dim=-1)
        return (f * self.cos[at] + torch.cat((-b, a), -1) * self.sin[at]).to(x.dtype)
