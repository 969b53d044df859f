from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

SHAPES = [(64, 81, 11), (64, 16, 6), (8, 900, 12)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_forward_backward(measure, shape):
    logits = torch.randn(shape).requires_grad_()
    labels = torch.randint(shape[-1], shape[:-1])
    dloss = torch.rand(shape[:-1], dtype=torch.float64)

    def run(op=ops.stablemax_cross_entropy):
        return torch.autograd.grad(op(logits, labels), logits, dloss)

    torch.testing.assert_close(run(), run(reference.stablemax_cross_entropy))
    moved = 3 * logits.numel() * 4 + 6 * labels.numel() * 8
    measure("stablemax_cross_entropy_grad", f"{shape},{logits.dtype}", moved, run)


@pytest.mark.parametrize("shape", SHAPES)
def test_stablemax(measure, shape):
    logits = torch.randn(shape)
    torch.testing.assert_close(ops.stablemax(logits), reference.stablemax(logits))
    measure("stablemax", f"{shape},{logits.dtype}", 12 * logits.numel(), lambda: ops.stablemax(logits))
