"""A block, the stack of blocks that is the network, and the recursion that applies it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trm_fast import ops
from trm_fast.nn import fp8
from trm_fast.nn.copies import low, once, packed_of
from trm_fast.nn.layers import Attention, ChannelMLP, Linear, Norm, TokenMixer
from trm_fast.ops import packed

if TYPE_CHECKING:
    from trm_fast.models.config import TRMConfig


class State(NamedTuple):
    """What recursion carries: the answer ``y`` and the latent ``z``, each (B, P + L, D) or of a width of its own; y is
    None in single state."""

    y: Tensor | None
    z: Tensor

    @property
    def answer(self) -> Tensor:
        """What the heads read."""
        return self.z if self.y is None else self.y

    def detach(self) -> State:
        return State(None if self.y is None else self.y.detach(), self.z.detach())

    def places(self, count: int) -> State:
        """The first ``count`` places."""
        return State(None if self.y is None else self.y[:, :count], self.z[:, :count])

    def extended(self, whole: State) -> State:
        """With the further places of ``whole``, of which this state is the beginning."""
        count = self.z.shape[1]
        if count == whole.z.shape[1]:
            return self
        y = None if self.y is None or whole.y is None else torch.cat((self.y, whole.y[:, count:]), 1)
        return State(y, torch.cat((self.z, whole.z[:, count:]), 1))

    def rows(self, index: Tensor | slice) -> State:
        """The state of some rows of the batch."""
        return State(None if self.y is None else self.y[index], self.z[index])


class Sublayer(nn.Module):
    """h = norm(h + part(h)), as published, or h + part(norm(h)) with ``norm_position: pre``."""

    def __init__(self, part: TokenMixer | Attention | ChannelMLP, config: TRMConfig) -> None:
        super().__init__()
        self.part = part
        self.norm = Norm(config, part.norm_dim)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.pre = config.norm_position == "pre"
        self.plain, self.eps = config.norm == "rms" and not self.pre, config.norm_eps

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        if self.plain and not (self.training and isinstance(self.dropout, nn.Dropout)):
            done = self.part.fused(h, mask, self.eps)
            if done is not None:
                return done
        if self.pre:
            return h + self.dropout(self.part(self.norm(h), mask))
        return self.norm(self.dropout(self.part(h, mask)), residual=h)


class Block(nn.Module):
    """One layer: mix over tokens, then over channels."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        mixer = TokenMixer(config) if config.mixing == "mlp" else Attention(config)
        self.mix = Sublayer(mixer, config)
        self.mlp = Sublayer(ChannelMLP(config), config)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        return self.mlp(self.mix(h, mask), mask)


class Port(nn.Module):
    """A state of another width than the network's: read into it, and written from it, of unit variance."""

    def __init__(self, width: int, config: TRMConfig) -> None:
        super().__init__()
        self.reads, self.writes = Linear(width, config.hidden_size), Linear(config.hidden_size, width)
        self.eps = config.norm_eps

    def read(self, state: Tensor) -> Tensor:
        """(B, P + L, width) as (B, P + L, D)."""
        made: Tensor = self.reads(state)
        return made

    def write(self, h: Tensor) -> Tensor:
        """(B, P + L, D) as (B, P + L, width)."""
        return ops.rms_norm(self.writes(h), eps=self.eps)


class Network(nn.Module):
    """``net``: the blocks in turn. Pre-norm needs a norm at the end, or the state would grow with every application."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.last_norm = Norm(config, dim=-1) if config.norm_position == "pre" else nn.Identity()
        self.plain, self.causal = config.norm == "rms" and config.norm_position == "post", config.causal
        self.dropout, self.over_tokens = config.dropout, config.mixing == "mlp"
        own = config.state_widths == "own"
        self.latent = Port(config.latent_width, config) if own else None
        self.answer = Port(config.answer_width, config) if own and config.answer_width else None

    def read(self, state: State) -> Tensor:
        """What the heads read of a state, (B, P + L, D)."""
        if self.latent is None:
            return state.answer
        return self.latent.read(state.z) if self.answer is None or state.y is None else self.answer.read(state.y)

    def fused(self, z: Tensor, mask: Tensor | None) -> bool:
        """Whether ``ops.latent_recursion`` has a kernel that does what ``forward`` would do for the state ``z``."""
        covered = self.plain and not (self.dropout and self.training)
        if not covered or not ops.backend.has_kernel("latent_recursion", z, mask is not None or self.causal):
            return False
        return not _wants_packed(z) or self._packing(z) or ops.backend.spare("latent_recursion", z) != "reference"

    def _packing(self, z: Tensor) -> bool:
        return _wants_packed(z) and packed.unfit(z, self.weights(), heads=not self.over_tokens) is None

    def packs(self, z: Tensor) -> bool:
        """Whether that kernel reads packed weights, and not plain ones in the dtype of ``z``."""
        return self.fused(z, None) and self._packing(z)

    def operands(self, z: Tensor) -> tuple[list[Tensor], list[Tensor] | None]:
        """The weights as that kernel takes them, and packed ones where it reads those and they are there."""
        weights = self.weights()
        if self._packing(z):
            return weights, packed_of(weights)
        return [low(weight, z.dtype) for weight in weights], None

    def weights(self) -> list[Tensor]:
        """Four a block, as ``ops.latent_recursion`` takes them."""
        blocks = cast(Iterable[Block], self.blocks)
        return [weight for block in blocks for part in (block.mix.part, block.mlp.part) for weight in part.weights()]

    def kind(self, config: TRMConfig, tokens: int) -> dict[str, Any]:
        """What else ``ops.latent_recursion`` must know of it, for a state of so many tokens."""
        mix = cast(Block, self.blocks[0]).mix.part
        rotary = mix.rotary.tables(tokens) if isinstance(mix, Attention) and mix.rotary is not None else None
        heads = config.num_heads if config.mixing == "attention" else 0
        return {"heads": heads, "rotary": rotary, "eps": config.norm_eps, "causal": self.causal}

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            if mask is not None and self.over_tokens:
                h = h * mask.unsqueeze(-1)  # padding stays zero: it must not enter a norm over tokens
            h = block(h, mask)
        return self.last_norm(h)


def _wants_packed(z: Tensor) -> bool:
    return ops.backend.select("latent_recursion", z) == "cuda"


class Recomputed(torch.autograd.Function):
    """``net(h, mask)`` that keeps h alone, and is computed once more in the backward.

    Unlike ``torch.utils.checkpoint`` it neither looks at the random state nor packs closures, so it can be captured.
    The network must not draw random numbers.
    """

    @staticmethod
    def forward(ctx: Any, net: Network, mask: Tensor | None, config: TRMConfig, h: Tensor, *weights: Tensor) -> Tensor:
        ctx.given = net, mask, config
        ctx.save_for_backward(h, *weights)
        with torch.no_grad():
            return application(net, h, mask, config)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        h, *weights = ctx.saved_tensors
        net = ctx.given[0]
        with torch.enable_grad(), once([] if net.packs(h) else net.weights(), h.dtype):
            h = h.detach().requires_grad_()
            y = application(net, h, *ctx.given[1:])
        return None, None, None, *torch.autograd.grad(y, (h, *weights), dy, allow_unused=True)


def run_cycles(
    net: Network,
    state: State,
    x: Tensor,
    config: TRMConfig,
    mask: Tensor | None,
    *,
    count: int = 1,
    recompute: bool = False,
) -> State:
    """``count`` cycles in a row: one call where the network is fused."""
    if recompute and torch.is_grad_enabled():
        weights = list(net.parameters())

        def applied(h: Tensor, mask: Tensor | None) -> Tensor:
            result: Tensor = Recomputed.apply(net, mask, config, h, *weights)
            return result

        for _ in range(count):
            state = cycle(applied, state, x, config, mask, net.latent, net.answer)
        return state
    if not count or fp8.active is not None or net.latent is not None or not net.fused(state.z, mask):

        def once_more(h: Tensor, mask: Tensor | None) -> Tensor:
            return net(h, mask) if fp8.active is not None else application(net, h, mask, config)

        for _ in range(count):
            state = cycle(once_more, state, x, config, mask, net.latent, net.answer)
        return state
    operands, ready = net.operands(state.z)
    y, z = ops.latent_recursion(
        *state, x, operands, config.n_latent_steps, inject_last=config.inject_last, cycles=count, packed=ready,
        mask=mask,
        **net.kind(config, x.shape[1]),
    )  # fmt: skip
    return State(y, z)


def application(net: Network, h: Tensor, mask: Tensor | None, config: TRMConfig) -> Tensor:
    """``net(h, mask)``, by the fused op where there is one."""
    if not net.fused(h, mask):
        result: Tensor = net(h, mask)
        return result
    # The last application of a single state, without anything injected.
    weights, ready = net.operands(h)
    return ops.latent_recursion(
        None, h, h.detach(), weights, 0, inject_last=False, packed=ready, mask=mask, **net.kind(config, h.shape[1])
    )[1]


def cycle(
    net: Callable[[Tensor, Tensor | None], Tensor],
    state: State,
    x: Tensor,
    config: TRMConfig,
    mask: Tensor | None,
    latent: Port | None = None,
    answer: Port | None = None,
) -> State:
    """One cycle (paper, figure 3): n times z = net(z + y + x), then y = net(y + z).

    In single state n times z = net(z + x) and once more, with x or without (``inject_last``). States of their own
    widths enter and leave the network through ports.
    """
    y, z = state
    said = None if y is None else _read(answer, y)
    injection = x if said is None else said + x
    for _ in range(config.n_latent_steps):
        z = _written(latent, net(_read(latent, z) + injection, mask))
    seen = _read(latent, z)
    if said is None:
        return State(None, _written(latent, net(seen + x if config.inject_last else seen, mask)))
    return State(_written(answer, net(said + seen, mask)), z)


def _read(port: Port | None, state: Tensor) -> Tensor:
    return state if port is None else port.read(state)


def _written(port: Port | None, h: Tensor) -> Tensor:
    return h if port is None else port.write(h)
