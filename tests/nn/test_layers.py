"""Each part of a layer against the same formulas written differently, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trm_fast.nn.block import Sublayer
from trm_fast.nn.config import NetworkConfig
from trm_fast.nn.layers import Attention, ChannelMLP, Norm, TokenMixer

from ..models.small import config as whole


def config(**changes: Any) -> NetworkConfig:
    return whole(**changes).network


B, L, D = 3, 6, 8


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, L, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1]], dtype=torch.bool)


def swiglu(x: Tensor, gate_up: nn.Module, down: nn.Module) -> Tensor:
    w: Tensor = gate_up.weight
    gate, up = x @ w[: len(w) // 2].T, x @ w[len(w) // 2 :].T
    return (gate * torch.sigmoid(gate) * up) @ down.weight.T


def test_channel_mlp_is_swiglu_over_channels(x: Tensor) -> None:
    part = ChannelMLP(config()).double()
    torch.testing.assert_close(part(x, None), swiglu(x, part.gate_up, part.down))


@pytest.mark.parametrize("over_tokens", [False, True])
def test_gated_norm_is_a_sigmoid_times_the_norm_of_the_product(x: Tensor, over_tokens: bool) -> None:
    c = config(activation="gated_norm", norm_eps=1e-3)
    part = (TokenMixer(c) if over_tokens else ChannelMLP(c)).double()
    h, w = x.transpose(1, 2) if over_tokens else x, part.gate_up.weight
    gate, up = h @ w[: len(w) // 2].T, h @ w[len(w) // 2 :].T
    product = gate * up
    inner = torch.sigmoid(gate) * product / (product.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    want = inner @ part.down.weight.T
    torch.testing.assert_close(part(x, None), want.transpose(1, 2) if over_tokens else want)


@pytest.mark.parametrize("mask", [None, MASK])
def test_token_mixer_is_two_linear_maps_of_the_transposed_state(x: Tensor, mask: Tensor | None) -> None:
    part = TokenMixer(config()).double()
    seen = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
    want = swiglu(seen.transpose(1, 2), part.gate_up, part.down).transpose(1, 2)
    torch.testing.assert_close(part(x, mask), want)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["none", "rope"])
def test_attention_equals_a_loop_over_queries(x: Tensor, positions: str, causal: bool, mask: Tensor | None) -> None:
    c = config(mixing="attention", positions=positions, causal=causal, rope_theta=100.0)
    part = Attention(c).double()
    width = D // c.num_heads
    q, k, v = (part.qkv.weight[i * D : (i + 1) * D] for i in range(3))

    def rotated(vector: Tensor, position: int) -> Tensor:
        """Multiplies the pairs (j, j + width / 2), as complex numbers, by e^(i angle)."""
        if positions == "none":
            return vector
        angles = position * 100.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        half = width // 2
        pairs = torch.complex(vector[:half], vector[half:]) * torch.exp(1j * angles)
        return torch.cat((pairs.real, pairs.imag))

    want = torch.zeros_like(x)
    for b in range(B):
        for i in range(L):
            keys = [j for j in range(L) if (mask is None or bool(mask[b, j]) or j == i) and (j <= i or not causal)]
            heads = []
            for h in range(c.num_heads):
                part_of = slice(h * width, (h + 1) * width)
                query = rotated((q @ x[b, i])[part_of], i)
                scores = torch.stack([query @ rotated((k @ x[b, j])[part_of], j) for j in keys]) / math.sqrt(width)
                heads.append(sum(s * (v @ x[b, j])[part_of] for s, j in zip(scores.softmax(0), keys, strict=True)))
            want[b, i] = part.out.weight @ torch.cat(heads)
    # The rotary tables are float32, as published.
    tolerance = 1e-6 if positions == "rope" else 1e-12
    torch.testing.assert_close(part(x, mask), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [-1, 1])
def test_norms_divide_by_the_root_mean_square(x: Tensor, dim: int) -> None:
    norm, residual = Norm(config(norm_eps=0.01), dim), torch.randn_like(x)
    for got, h in ((norm(x), x), (norm(x, residual), x + residual)):
        last = h.transpose(dim, -1)
        want = last / (last.square().mean(-1, keepdim=True) + 0.01).sqrt()
        torch.testing.assert_close(got, want.transpose(dim, -1))


def test_norms_of_low_precision_keep_float32_statistics() -> None:
    x = torch.randn(2, 3, 512, generator=torch.Generator().manual_seed(0)).bfloat16() + 30
    got, want = Norm(config(), -1)(x), Norm(config(), -1)(x.double())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("part_type", [TokenMixer, ChannelMLP, Attention])
@pytest.mark.parametrize("position", ["post", "pre"])
def test_the_norm_is_after_or_before_the_part(x: Tensor, position: str, part_type: Any) -> None:
    c = config(norm_position=position, mixing="attention" if part_type is Attention else "mlp")
    part = part_type(c).double()
    sublayer = Sublayer(part, c)
    axis = 1 if part_type is TokenMixer else 2  # the mixer's norm is over tokens

    def norm(h: Tensor) -> Tensor:
        return h / (h.square().mean(axis, keepdim=True) + c.norm_eps).sqrt()

    want = norm(x + part(x, None)) if position == "post" else x + part(norm(x), None)
    torch.testing.assert_close(sublayer(x, None), want)


@pytest.mark.parametrize("position", ["post", "pre"])
def test_dropout_applies_to_the_part_and_only_in_training(x: Tensor, position: str) -> None:
    c = config(norm_position=position, dropout=0.4, norm_eps=1e-12)
    part = ChannelMLP(c).double()
    sublayer, plain = Sublayer(part, c), Sublayer(part, config(norm_position=position, norm_eps=1e-12))
    assert torch.equal(sublayer.eval()(x, None), plain(x, None))
    sublayer.train()
    torch.manual_seed(0)
    dropped = torch.stack([sublayer.dropout(part(x, None)) for _ in range(20)])
    assert (dropped == 0).double().mean().item() == pytest.approx(0.4, abs=0.03)
    torch.manual_seed(0)
    first = sublayer(x, None)
    h = x if position == "pre" else None
    want = x + dropped[0] if h is None else x + _first_dropout(sublayer, x)
    torch.testing.assert_close(first, plain.norm(want) if position == "post" else want)
    assert not torch.equal(first, sublayer(x, None))


def _first_dropout(sublayer: Sublayer, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return sublayer.dropout(sublayer.part(sublayer.norm(x), None))
