from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [
    pytest.param(16, 97, 512, 1536, id="paper"),
    pytest.param(64, 81, 128, 512, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 256, id="sudoku-4x4"),
]


def inputs(B, L, D, inner):
    return torch.randn(B, L, D), torch.randn(2 * inner, D) * D**-0.5, torch.randn(D, inner) * inner**-0.5


def moved(made):
    return 4 * (2 * made[0].numel() + made[1].numel() + made[2].numel())


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward(measure, B, L, D, inner):
    made = inputs(B, L, D, inner)
    torch.testing.assert_close(ops.mlp(*made), reference.mlp(*made), rtol=1e-4, atol=1e-4)
    measure("mlp", f"{(B, L, D, inner)},float32", moved(made), lambda: ops.mlp(*made))


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward_backward(measure, B, L, D, inner):
    made = [t.requires_grad_() for t in inputs(B, L, D, inner)]
    dy = torch.randn(B, L, D)

    def run(op=ops.mlp):
        return torch.autograd.grad(op(*made), made, dy)

    torch.testing.assert_close(run(), run(reference.mlp), rtol=1e-3, atol=1e-3)
    measure("mlp_grad", f"{(B, L, D, inner)},float32", 3 * moved(made), run)
