"""Tests the Python code of the fused step, forward and backward, with CUDA kernels that ``cuda_on_cpu`` emulates."""

from __future__ import annotations

import ctypes
import warnings

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import packing, reference
from trm_fast.ops._core import dispatch, selection, validation
from trm_fast.ops.packing import interleaved_rows

from .cuda_launchers import Axis

pytestmark = pytest.mark.slow  # the kernels, compiled for the CPU and emulated


def network(random, blocks=2, L=19, D=128, mixer=20, mlp=60, dtype=torch.bfloat16) -> list[Tensor]:
    shapes = [(2 * mixer, L), (L, mixer), (2 * mlp, D), (D, mlp)] * blocks
    return [(random(*shape) / shape[1] ** 0.5).to(dtype) for shape in shapes]


def unpacked(matrices: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    plain = []
    for matrix, weight, layout in zip(matrices, weights, packing.layouts(weights, 19), strict=True):
        rows = interleaved_rows(len(weight), layout.interleave, weight.device)
        plain.append(matrix[rows, : weight.shape[1]])
        rest = torch.ones_like(matrix, dtype=torch.bool)
        rest[rows, : weight.shape[1]] = False
        assert not matrix[rest].any()
    return plain


def test_layouts(random):
    weights = network(random)
    matrices = ops.pack_weights(weights, 19)
    assert [tuple(m.shape) for m in matrices[:4]] == [(128, 32), (32, 64), (128, 128), (128, 64)]
    assert all(map(torch.equal, unpacked(matrices, weights), weights))
    gate, up = weights[0].chunk(2)
    assert torch.equal(matrices[0][:16, :19], torch.cat([gate[:8], up[:8]]))


def test_the_optimizer_keeps_packed_weights_up_to_date(native, random):
    params = network(random, dtype=torch.float32)
    lists = [[torch.rand_like(p) for p in params] for _ in range(3)]
    kept = ops.pack_weights(params, 19)
    interleave = [layout.interleave for layout in packing.layouts(params, 19)]
    ops.adam_atan2_(params, *lists, torch.tensor(0.1), torch.tensor(1), copies=kept, interleave=interleave)
    assert all(map(torch.equal, kept, ops.pack_weights(params, 19)))


@pytest.fixture
def emulated(native, device, monkeypatch):
    """The kernels of csrc/ops/latent_step/binding.cpp, implemented on the CPU by emulated launchers."""
    library = torch.library.Library("trm_fast", "IMPL")

    def fwd(z, injection, matrices, eps, keep):
        (B, L, D), kept, eps = z.shape, [], ctypes.c_float(eps)
        for i in range(0, len(matrices), 4):
            mixer_in, mixer_out, mlp_in, mlp_out = matrices[i : i + 4]
            mixed, y, active = empty(z), empty(z), empty(z, B * L, mlp_out.shape[1])
            over_tokens, over_channels = empty(z, B, 1, D, dtype=torch.float32), empty(z, B, L, 1, dtype=torch.float32)
            more = None if i else injection
            device.token_mixer(z.dtype, z, more, mixer_in, mixer_out, mixed, over_tokens, B, L, D,
                 mixer_out.shape[1], eps)  # fmt: skip
            device.mlp_in(z.dtype, mixed, mlp_in, active, B * L, D, active.shape[1])
            device.mlp_out(z.dtype, active, mlp_out, mixed, y, over_channels, B * L, D, active.shape[1], eps)
            kept += [z, mixed, over_tokens, over_channels] if i else [mixed, over_tokens, over_channels]
            z = y
        return z, kept if keep else []

    def mixer_bwd(dy, h, injection, y, rstd, w_in, w_out):
        (B, L, D), (tokens, inner) = h.shape, w_out.shape
        dh, d, x = empty(h), empty(h), h if injection is None else empty(h)
        device.token_mixer_bwd(h.dtype, dy, h, injection, y, rstd, w_in, w_out, dh, d, x, B, L, D, inner)
        slabs = min(B * D // 32, max(1, 264 * 64 // inner))
        sums = empty(h, slabs, 3, inner, tokens, dtype=torch.float32)
        device.token_mixer_bwd_weights(h.dtype, d, x, w_in, w_out, sums, slabs, B, L, D, inner)
        return dh, sums

    def mlp_bwd(d, h, w_in, w_out):
        rows, inner = h.shape[0] * h.shape[1], w_out.shape[1]
        active, dgate_up = empty(h, rows, inner), empty(h, rows, 2 * inner)
        device.mlp_in_bwd(h.dtype, d, h, w_in, w_out, active, dgate_up, rows, h.shape[2], inner)
        return active, dgate_up

    def norm_bwd(dy, y, rstd, dim):
        dx = empty(y)
        device.rms_norm_bwd(y.dtype, dy.contiguous(), y, rstd, dx, Axis(y.shape[0] * y.shape[1], y.shape[2], 1))
        return dx

    library.impl("latent_step_packed_fwd", fwd, "CPU")
    library.impl("token_mixer_packed_bwd", mixer_bwd, "CPU")
    library.impl("mlp_packed_bwd", mlp_bwd, "CPU")
    with warnings.catch_warnings():  # torch warns that this replaces the C++ kernel, which has no float16
        warnings.simplefilter("ignore")
        library.impl("rms_norm_bwd", norm_bwd, "CPU", allow_override=True)
    monkeypatch.setattr(dispatch, "select", lambda *_: "cuda")
    yield
    library._destroy()


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_full(shape or like.shape, torch.nan, dtype=dtype or like.dtype)


def agree(got: list[Tensor], plain: list[Tensor], truth: list[Tensor]) -> None:
    for i, (g, p, t) in enumerate(zip(got, plain, truth, strict=True)):
        wrong = validation.disagreement(g, p.to(g.dtype), t, 3 if i else 2, torch.ones_like(t) if i else t)
        assert wrong is None, f"{i}: {wrong}"


def graded(op, inputs, dy, **options) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = op(leaves[0], leaves[1], leaves[2:], **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, dy)]


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "with_packed"),
    [
        (torch.bfloat16, torch.bfloat16, True),
        (torch.float16, torch.float32, False),
        (torch.float16, torch.float16, True),
    ],
)
def test_latent_step_and_its_gradients(emulated, random, dtype, weight_dtype, with_packed):
    """Runs two layers. Weights whose dtype differs from the states' are packed again."""
    z, injection, dy = (random(2, 19, 128, dtype=dtype) for _ in range(3))
    weights = network(random, dtype=weight_dtype)
    options = {"packed": ops.pack_weights(weights, 19)} if with_packed else {}
    got = graded(ops.latent_step, [z, injection, *weights], dy, **options)
    assert [g.dtype for g in got] == [dtype] * 3 + [weight_dtype] * 8
    rounded = [z, injection, *(w.to(dtype) for w in weights)]
    truth = graded(reference.latent_step, [t.double() for t in rounded], dy.double())
    agree(got, graded(reference.latent_step, rounded, dy), truth)


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_second_derivatives(emulated, random, weight_dtype):
    """They are the reference's, whose first derivatives differ from the kernels' by rounding only."""
    z, injection = (random(1, 19, 128, dtype=torch.bfloat16) for _ in range(2))
    inputs = [z, injection, *network(random, blocks=1, dtype=weight_dtype)]
    results = []
    for op in (ops.latent_step, reference.latent_step):
        z, injection, *weights = leaves = [t.detach().requires_grad_() for t in inputs]
        used = weights if op is ops.latent_step else [w.to(z.dtype) for w in weights]
        out = op(z, injection, used)
        first = torch.autograd.grad(out, leaves, torch.ones_like(out), create_graph=True)
        penalty = sum(d.float().square().sum() for d in first)
        results.append([*first, *torch.autograd.grad(penalty, leaves)])
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("inject_last", [True, False])
def test_latent_recursion(emulated, random, dual, inject_last):
    y, z, x = (random(1, 19, 128, dtype=torch.bfloat16) for _ in range(3))
    weights = network(random, blocks=1)
    states, options = (y if dual else None, z, x), {"inject_last": inject_last, "cycles": 2}
    got = ops.latent_recursion(*states, weights, 2, **options)
    assert (got[0] is None) == (not dual)
    plain, truth = (
        reference.latent_recursion(
            *(None if s is None else s.to(kind) for s in states), [w.to(kind) for w in weights], 2, **options
        )
        for kind in (torch.bfloat16, torch.float64)
    )
    for g, p, t in zip(got, plain, truth, strict=True):
        assert g is None or validation.disagreement(g, p, t, 2, t) is None


@pytest.mark.parametrize(
    ("shape", "heads", "reason"),
    [((2, 19, 128), 2, "not attention"), ((2, 129, 128), 0, "not 129"), ((2, 19, 96), 0, "not 96")],
)
def test_unsupported_networks(random, monkeypatch, shape, heads, reason):
    """A backend requested by name raises; ``auto`` takes the reference."""
    z = random(*shape, dtype=torch.bfloat16)
    if heads:
        weights = [random(384, 128), random(128, 128), *network(random, 1)[2:]]
        weights = [w.bfloat16() for w in weights]
    else:
        weights = network(random, 1, L=shape[1], D=shape[2])
    monkeypatch.setattr(dispatch, "select", lambda *_: "cuda")
    want = reference.latent_step(z, z, weights, heads=heads)
    assert torch.equal(ops.latent_step(z, z, weights, heads=heads), want)
    monkeypatch.setitem(selection._requested, "latent_step", "cuda")
    with pytest.raises(ops.BackendUnavailable, match=reason):
        ops.latent_step(z, z, weights, heads=heads)
