"""Every layer through Triton's own launcher, up to the driver: arguments are specialised and compiled as on a card."""

from __future__ import annotations

import pytest
import torch

from trm_fast.ops import backend

pytestmark = pytest.mark.skipif(
    backend.INTERPRETED or torch.cuda.is_available(), reason="here launches are the interpreter's, or real"
)
B, L, D = 3, 17, 64


def layer(name: str):
    from trm_fast.triton_kernels.attention import Attention
    from trm_fast.triton_kernels.mlp import MLP
    from trm_fast.triton_kernels.token_mixer import TokenMixer

    def weight(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.bfloat16)

    if name == "mlp":
        return MLP(weight(128, D), weight(D, 64), 1e-5)
    if name == "token_mixer":
        return TokenMixer(weight(128, L), weight(L, 64), 1e-5)
    tables = torch.zeros(2, L, 32)
    return Attention(weight(3 * D, D), weight(D, D), 2, *tables, 1e-5)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("mlp", {"gate_up_fwd", "project_fwd", "rms_norm_bwd", "down_bwd"}),
        ("token_mixer", {"token_mixer_fwd", "token_mixer_bwd", "token_mixer_bwd_weights"}),
        ("attention", {"qkv_fwd", "attend_fwd", "project_fwd", "rms_norm_bwd"}),
    ],
)
def test_a_layer_launches(launched, name, kernels):
    part, h = layer(name), torch.zeros(B, L, D, dtype=torch.bfloat16)
    kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in part.kept(h)]
    for _ in range(2):  # compiled, then found
        launched.clear()
        part.forward(h, h, torch.empty_like(h), kept)
        part.backward(h, h, h, h, kept)
        assert {f"{kernel}_kernel" for kernel in kernels} <= set(launched)
