"""The network: a stack of layers, with linear maps for states of other widths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from trm_fast import ops
from trm_fast.nn.config import NetworkConfig
from trm_fast.nn.layers import Attention, ChannelMLP, GroupMixer, Linear, Norm, SwiGLU, TokenMixer
from trm_fast.nn.precision import CAST_AT_USE, Precision
from trm_fast.ops._core import dispatch


class Sublayer(nn.Module):
    """A token mixer, attention, group mixer or channel MLP with residual and norm, on h (B, L, D).

    It computes norm(h + part(h)), as published, or h + part(norm(h)) with ``norm_position: pre``.
    """

    def __init__(self, part: TokenMixer | Attention | GroupMixer | ChannelMLP, config: NetworkConfig) -> None:
        super().__init__()
        self.part = part
        self.norm = Norm(config, part.norm_dim)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.pre, self.eps, self.has_dropout = config.norm_position == "pre", config.norm_eps, config.dropout > 0
        self.fusable = config.activation == "swiglu" or not isinstance(part, SwiGLU)

    def forward(self, h: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns the new h (B, L, D). mask: bool (B, L), False for padding."""
        if self.pre:
            return h + self.dropout(self.part(self.norm(h), mask, precision))
        if self._fused(h, mask, precision):
            return self.part.fused(h, mask, self.eps, precision)
        return self.norm(self.dropout(self.part(h, mask, precision)), residual=h)

    def _fused(self, h: Tensor, mask: Tensor | None, precision: Precision) -> bool:
        """Whether a single op computes the whole sublayer."""
        if (self.has_dropout and self.training) or (self.part.over_channels and not precision.fuses_channels):
            return False
        if not self.fusable:
            return False
        return dispatch.has_kernel(self.part.op, h, self.part.masked(mask))


MIXERS: dict[str, type[TokenMixer | Attention | GroupMixer]] = {
    "mlp": TokenMixer,
    "attention": Attention,
    "groups": GroupMixer,
}


class Block(nn.Module):
    """One layer: mixes over tokens, then over channels. A group mixer does both at once."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.mix = Sublayer(MIXERS[config.mixing](config), config)
        self.mlp = nn.Identity() if config.mixing == "groups" else Sublayer(ChannelMLP(config), config)

    def sublayers(self) -> list[Sublayer]:
        """The sublayers, in order."""
        return [part for part in (self.mix, self.mlp) if isinstance(part, Sublayer)]

    def forward(self, h: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns the new h (B, L, D). mask: bool (B, L), False for padding."""
        for sublayer in self.sublayers():
            h = sublayer(h, mask, precision)
        return h


class Port(nn.Module):
    """Converts a state of another width to the network's width and back. Both have unit variance."""

    def __init__(self, width: int, config: NetworkConfig) -> None:
        super().__init__()
        self.reads, self.writes = Linear(width, config.hidden_size), Linear(config.hidden_size, width)
        self.eps = config.norm_eps

    def read(self, state: Tensor, precision: Precision) -> Tensor:
        """Maps a state (B, L, width) to (B, L, D)."""
        h: Tensor = self.reads(state, precision)
        return h

    def write(self, h: Tensor, precision: Precision) -> Tensor:
        """Maps h (B, L, D) to a state (B, L, width)."""
        return ops.rms_norm(self.writes(h, precision), eps=self.eps)


class Network(nn.Module):
    """The network: applies its layers in order to h (B, L, D).

    With ``norm_position: pre`` it ends with a norm, without which the state would grow with every application.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.last_norm = Norm(config, dim=-1) if config.norm_position == "pre" else nn.Identity()
        self.over_tokens = config.mixing == "mlp"
        self.latent = None if config.latent_width is None else Port(config.latent_width, config)
        self.answer = None if config.answer_width is None else Port(config.answer_width, config)

    def weights(self) -> list[Tensor]:
        """The weights that ``ops.latent_recursion`` takes, two per sublayer."""
        blocks = cast(Iterable[Block], self.blocks)
        return [weight for block in blocks for sublayer in block.sublayers() for weight in sublayer.part.weights()]

    def op_options(self, tokens: int) -> dict[str, Any]:
        """The layers' options for ``ops.latent_recursion``, for a state of ``tokens`` positions."""
        mix, config = cast(Block, self.blocks[0]).mix.part, self.config
        if isinstance(mix, GroupMixer):
            return {"groups": mix.groups, "group_scale": mix.scale, "eps": config.norm_eps}
        if not isinstance(mix, Attention):
            return {"eps": config.norm_eps}
        rotary = None if mix.rotary is None else mix.rotary.tables(tokens)
        return {"heads": config.num_heads, "rotary": rotary, "eps": config.norm_eps, "causal": config.causal}

    def forward(self, h: Tensor, mask: Tensor | None, precision: Precision = CAST_AT_USE) -> Tensor:
        """Returns the new h (B, L, D). mask: bool (B, L), False for padding."""
        for block in self.blocks:
            if mask is not None and self.over_tokens:
                h = h * mask.unsqueeze(-1)  # padding must not enter a norm over tokens
            h = block(h, mask, precision)
        return self.last_norm(h)
