"""The in-place ops on the Triton backend: everything that they write is compared with the reference in float64."""

from __future__ import annotations

import math

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry
from trm_fast.ops.packing import pack_weights

SHAPES = [(5, 7), (1030,), (1,), (0, 3), (64, 33), ()]
EPS = torch.finfo(torch.float32).eps


def on(device, *values):
    return [torch.tensor(value, device=device) for value in values]


@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize(("ema", "scale"), [(True, 0.25), (False, None)])
def test_adam_atan2_(triton, random, device, variant, ema, scale):
    start = [[random(*shape) for shape in SHAPES] for _ in range(5)]
    start[3] = [t.square() for t in start[3]]
    kernel = [[t.to(device, copy=True) for t in tensors] for tensors in start]
    truth = [[t.to(device).double() for t in tensors] for tensors in start]
    lr, step, grad_scale = on(device, 1e-2, 3, scale or 1.0)
    for op, (*tensors, averages) in ((ops.adam_atan2_, kernel), (reference.adam_atan2_, truth)):
        for _ in range(3):
            op(
                *tensors, lr, step, ema=averages if ema else None, variant=variant, weight_decay=0.3, ema_decay=0.9,
                grad_scale=grad_scale if scale else None,
            )  # fmt: skip
    for got, want in zip(kernel, truth, strict=True):
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g.double(), w, rtol=0, atol=16 * EPS)
    assert not torch.equal(kernel[0][0].cpu(), start[0][0])
    assert torch.equal(kernel[4][0].cpu(), start[4][0]) != ema


def test_atan2_is_accurate(triton, device):
    """Covers all angles. With these betas the first moment is halved, the root of the second stays, and the step is
    twice the angle."""
    ratio = torch.logspace(-20, 20, 20001, device=device)
    m = torch.cat([ratio, -ratio])
    p, v, beta2 = torch.zeros_like(m), torch.ones_like(m), math.nextafter(1.0, 0.0)
    lr, step = on(device, 1.0, 1)
    root = math.sqrt(-math.expm1(math.log(beta2)))
    ops.adam_atan2_([p], [torch.zeros_like(m)], [m], [v], lr, step, betas=(0.5, beta2))
    truth = -2 * torch.atan2(m.double(), v.double().sqrt() / root)
    torch.testing.assert_close(p.double(), truth, rtol=4 * EPS, atol=0)


def test_special_values_of_atan2(triton, device):
    """Zeros of both signs, infinity over infinity and NaN, on moments that start at zero."""
    g = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-30, 1e30], device=device).repeat(5)
    kernel, truth = ([[torch.zeros_like(g)] for _ in range(3)] for _ in range(2))
    lr, step = on(device, 1e-2, 1)
    ops.adam_atan2_(kernel[0], [g], *kernel[1:], lr, step)
    reference.adam_atan2_(truth[0], [g], *truth[1:], lr, step)
    for (got,), (want,) in zip(kernel, truth, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_layouts_and_versions(triton, random, device):
    """Transposed parameters and broadcast gradients: written in place, in the caller's strides, seen by autograd."""
    p, m, v, e = (random(6, 10).square().to(device).t() for _ in range(4))
    g, (lr, step) = random(10, 1).to(device).expand(10, 6), on(device, 1e-2, 3)
    want = [t.contiguous() for t in (p, g, m, v, e)]
    version = p._version
    reference.adam_atan2_(*([t] for t in want[:4]), lr, step, ema=want[4:])
    ops.adam_atan2_([p], [g], [m], [v], lr, step, ema=[e])
    for got, expected in zip((p, m, v, e), (want[0], *want[2:]), strict=True):
        torch.testing.assert_close(got, expected)
        assert got.stride() == (1, 10)
    assert p._version > version


def test_copies(triton, random, device):
    """Padded and interleaved, as the fused kernels read them."""
    dtype = torch.float16 if registry.INTERPRETED else torch.bfloat16  # the interpreter truncates to bfloat16
    params = [random(*shape).to(device) for shape in [(40, 19), (19, 20), (96, 128), (128, 48)]]
    targets, want = ([t.to(dtype).zero_() for t in pack_weights(params, 19)] for _ in range(2))
    lr, step = on(device, 1e-2, 1)
    for op, copies in ((ops.adam_atan2_, targets), (reference.adam_atan2_, want)):
        lists = [[t.clone() for t in params], params, *([torch.zeros_like(t) for t in params] for _ in range(2))]
        op(*lists, lr, step, copies=copies, interleave=[8, 0, 8, 0])
    for got, expected in zip(targets, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    with pytest.raises(RuntimeError, match="copy 0 is too small"):
        ops.adam_atan2_(*(tensors[:1] for tensors in lists), lr, step, copies=[targets[1]])


@pytest.mark.parametrize(("rows", "columns", "batch"), [(7, 130, 12), (1, 3, 5), (50, 64, 1), (4, 5, 0), (4, 0, 3)])
def test_sign_sgd_rows_(triton, random, device, rows, columns, batch):
    weight, grads = random(rows, columns).to(device), random(batch, columns).to(device)
    ids = torch.arange(batch, device=device).mul(5) % rows
    want, (lr,) = weight.clone(), on(device, 0.1)
    reference.sign_sgd_rows_(want, grads, ids, lr, 0.5)
    ops.sign_sgd_rows_(weight, grads, ids, lr, 0.5)
    torch.testing.assert_close(weight, want)


def test_sign_sgd_rows_over_several_tiles(triton, random, device):
    """More examples than a tile, a transposed table, sums that are exactly zero, ids outside the table."""
    weight = random(30, 9).to(device).t()
    grads = torch.randint(-2, 3, (150, 30), generator=torch.Generator().manual_seed(0)).to(device) / 4
    ids, (lr,) = (torch.arange(150, device=device) * 7 % 5).int(), on(device, 0.1)
    want = weight.clone()
    reference.sign_sgd_rows_(want, grads, ids.long(), lr, 0.5)
    ops.sign_sgd_rows_(weight, grads, torch.where(ids == 4, ids * 0 - 1, ids), lr, 0.5)
    want[4] = weight[4]
    torch.testing.assert_close(weight, want)
    assert weight.stride() == (1, 9)
