from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [
    pytest.param(16, 97, 512, 8, id="paper"),
    pytest.param(64, 81, 128, 4, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 4, id="sudoku-4x4"),
    pytest.param(1, 916, 512, 8, id="maze"),
]


def inputs(B, L, D):
    return torch.randn(B, L, D), torch.randn(3 * D, D) * D**-0.5, torch.randn(D, D) * D**-0.5


def tables(L, width):
    angles = torch.outer(torch.arange(L).float(), 1e4 ** -torch.linspace(0, 1, width // 2)).repeat(1, 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(("B", "L", "D", "heads"), CASES)
def test_forward(measure, B, L, D, heads):
    made, rotary = inputs(B, L, D), tables(L, D // heads)
    want = reference.attention(*made, heads, rotary)
    torch.testing.assert_close(ops.attention(*made, heads, rotary), want, rtol=1e-4, atol=1e-4)
    moved = 4 * (2 * made[0].numel() + 4 * D * D)
    measure("attention", f"{(B, L, D, heads)},float32", moved, lambda: ops.attention(*made, heads, rotary))


@pytest.mark.parametrize(("B", "L", "D", "heads"), CASES)
def test_forward_backward(measure, B, L, D, heads):
    made, rotary = [t.requires_grad_() for t in inputs(B, L, D)], tables(L, D // heads)
    dy = torch.randn(B, L, D)

    def run(op=ops.attention):
        return torch.autograd.grad(op(*made, heads, rotary), made, dy)

    torch.testing.assert_close(run(), run(reference.attention), rtol=1e-3, atol=1e-3)
    measure("attention_grad", f"{(B, L, D, heads)},float32", 12 * (2 * B * L * D + 4 * D * D), run)
