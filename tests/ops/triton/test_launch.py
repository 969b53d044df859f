"""Launches every layer with Triton's own launcher, which specializes and compiles as on a GPU; only the driver is a
stand-in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trm_fast.ops._core import registry

from . import offline

pytestmark = pytest.mark.skipif(
    registry.INTERPRETED or torch.cuda.is_available(), reason="launches need no stand-in for the driver"
)
B, L, D = 3, 17, 64


def layer(name: str, D: int = D, inner: int = 64):
    from trm_fast.triton_kernels.attention import Attention
    from trm_fast.triton_kernels.group_mixer import GroupMixer
    from trm_fast.triton_kernels.mlp import MLP
    from trm_fast.triton_kernels.token_mixer import TokenMixer

    def weight(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.bfloat16)

    if name == "mlp":
        return MLP(weight(2 * inner, D), weight(D, inner), 1e-5)
    if name == "group_mixer":
        groups = torch.stack((torch.arange(L) // 3, torch.zeros(L, dtype=torch.int64)))
        return GroupMixer(weight(2 * inner, 3 * D), weight(D, inner), groups, 1.0, 1e-5)
    if name == "token_mixer":
        return TokenMixer(weight(128, L), weight(L, 64), 1e-5)
    tables = torch.zeros(2, L, D // 2)
    return Attention(weight(3 * D, D), weight(D, D), *tables, None, 2, 1e-5, False)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("mlp", {"gate_up_fwd", "project_fwd", "rms_norm_bwd", "down_bwd"}),
        ("token_mixer", {"token_mixer_fwd", "token_mixer_bwd", "token_mixer_bwd_weights"}),
        (
            "group_mixer",
            {"sum_groups", "gate_up_groups_fwd", "project_fwd", "rms_norm_bwd", "down_bwd", "add_groups"},
        ),
        ("attention", {"qkv_fwd", "attend_fwd", "project_fwd", "rms_norm_bwd"}),
    ],
)
def test_a_layer_launches(launched, name, kernels):
    part, h = layer(name), torch.zeros(B, L, D, dtype=torch.bfloat16)
    kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in part.saved_specs(h)]
    for _ in range(2):  # the first time compiles, the second uses the cache
        launched.clear()
        part.forward(h, h, torch.empty_like(h), kept)
        part.backward(h, h, h, h, kept)
        assert {f"{kernel}_kernel" for kernel in kernels} <= set(launched)


@pytest.mark.parametrize("name", ["mlp", "attention", "group_mixer"])
def test_addmm_copies_nothing(monkeypatch, name):
    """On a GPU an addmm that is not in place first copies its input."""
    products = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            products.append(str(func))
            return func(*args, **(kwargs or {}))

    def run() -> None:
        part, h = layer(name, D=512, inner=1536), torch.zeros(B, L, 512, dtype=torch.bfloat16)  # products by cuBLAS
        kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in part.saved_specs(h)]
        with Seen():
            part.forward(h, h, torch.empty_like(h), kept)
            part.backward(h, h, h, h, kept)

    offline.launches(monkeypatch, 90, run)
    assert {"aten.mm.default", "aten.addmm_.default"} <= set(products)
    assert not {"aten.addmm.default", "aten.addmm.out"} & set(products)
