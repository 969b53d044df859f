"""Tests arithmetic, fragments, addresses and barriers of the CUDA matrix kernels, on tensor cores that ``cuda_on_cpu``
emulates."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from torch import Tensor

from trm_fast.ops import reference
from trm_fast.ops._core import validation
from trm_fast.ops.packing import interleaved_rows, pack_weights

from .cuda_launchers import SANITIZE, Axis

pytestmark = pytest.mark.slow  # the kernels, compiled for the CPU and emulated

# The sanitizer checks addresses, which are the same for both dtypes.
HALVES = [torch.bfloat16] if SANITIZE in os.environ else [torch.bfloat16, torch.float16]
EPS = ctypes.c_float(1e-5)


def network(random, L: int, D: int, mixer: int, mlp: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = [(2 * mixer, L), (L, mixer), (2 * mlp, D), (D, mlp)]
    return [(random(*shape) / shape[1] ** 0.5).to(dtype) for shape in shapes]


def nan(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def gradients(op, inputs, dy):
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, dy)]


def check(kernel, op, inputs, dy):
    """Compares output and gradients with float64."""
    plain, truth = gradients(op, inputs, dy), gradients(op, [t.double() for t in inputs], dy.double())
    for i, (got, p, t) in enumerate(zip(kernel, plain, truth, strict=True)):
        got = got.to(p.dtype)
        wrong = validation.disagreement(got, p, t, 3 if i else 2, dy.double() if i else t)
        assert wrong is None, f"{i}: {wrong}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("B", "L", "D", "inner", "inject"),
    [(2, 19, 128, 20, True), (1, 97, 256, 96, False), (3, 33, 128, 64, True), (2, 96, 128, 40, True),
     (2, 128, 128, 130, False), (2, 112, 128, 33, True)],
)  # fmt: skip
def test_token_mixer(device, random, dtype, B, L, D, inner, inject):
    z, injection, dy = (random(B, L, D, dtype=dtype) for _ in range(3))
    weights = network(random, L, D, inner, 64, dtype)
    w_in, w_out = pack_weights(weights, L, dtype)[:2]
    tokens, padded = w_out.shape
    more = injection if inject else None
    y, dh, d, x = (nan(B, L, D, dtype=dtype) for _ in range(4))
    rstd = nan(B, D, dtype=torch.float32)
    device.token_mixer(dtype, z, more, w_in, w_out, y, rstd, B, L, D, padded, EPS)
    device.token_mixer_bwd(dtype, dy, z, more, y, rstd, w_in, w_out, dh, d, x, B, L, D, padded)
    h = z + injection if inject else z
    assert torch.equal(x, h) if inject else x.isnan().all()
    slabs = 3  # partial sums, each over two tiles or more
    sums = nan(slabs, 3, padded, tokens, dtype=torch.float32)
    device.token_mixer_bwd_weights(dtype, d, h, w_in, w_out, sums, slabs, B, L, D, padded)
    total = sums.sum(0)[:, :inner, :L]
    kernel = [y, dh, total[:2].reshape(2 * inner, L), total[2].t()]
    check(kernel, reference.token_mixer, [h, *weights[:2]], dy)
    y_again = nan(B, L, D, dtype=dtype)
    device.token_mixer(dtype, z, more, w_in, w_out, y_again, None, B, L, D, padded, EPS)
    assert torch.equal(y, y_again)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("rows", "D", "inner"), [(19, 128, 60), (130, 256, 64), (64, 512, 128), (1, 384, 64)])
def test_mlp(device, random, dtype, rows, D, inner):
    h, dy, weights = random(rows, D, dtype=dtype), random(rows, D, dtype=dtype), network(random, 8, D, 32, inner, dtype)
    w_in, w_out = pack_weights(weights, 8, dtype)[2:]
    padded = w_out.shape[1]
    active, y, rstd = nan(rows, padded, dtype=dtype), torch.full_like(h, torch.nan), nan(rows, dtype=torch.float32)
    device.mlp_in(dtype, h, w_in, active, rows, D, padded)
    device.mlp_out(dtype, active, w_out, h, y, rstd, rows, D, padded, EPS)
    d, again, dgate_up = (
        torch.full_like(h, torch.nan),
        torch.full_like(active, torch.nan),
        nan(rows, 2 * padded, dtype=dtype),
    )
    device.rms_norm_bwd(dtype, dy, y, rstd, d, Axis(rows, D, 1))
    device.mlp_in_bwd(dtype, d, h, w_in, w_out, again, dgate_up, rows, D, padded)
    torch.testing.assert_close(again, active)
    order = interleaved_rows(2 * inner, 8, h.device)
    kernel = [y, torch.addmm(d, dgate_up, w_in), (dgate_up.t() @ h)[order], (d.t() @ active)[:, :inner]]
    check(kernel, reference.mlp, [h, *weights[2:]], dy)
