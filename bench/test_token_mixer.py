from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [
    pytest.param(16, 97, 512, 512, id="paper"),
    pytest.param(64, 81, 128, 256, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 256, id="sudoku-4x4"),
]


def inputs(B, L, D, inner):
    return torch.randn(B, L, D), torch.randn(2 * inner, L) * L**-0.5, torch.randn(L, inner) * inner**-0.5


def moved(made):
    return 4 * (2 * made[0].numel() + made[1].numel() + made[2].numel())


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward(measure, B, L, D, inner):
    made = inputs(B, L, D, inner)
    torch.testing.assert_close(ops.token_mixer(*made), reference.token_mixer(*made), rtol=1e-4, atol=1e-4)
    measure("token_mixer", f"{(B, L, D, inner)},float32", moved(made), lambda: ops.token_mixer(*made))


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward_backward(measure, B, L, D, inner):
    made = [t.requires_grad_() for t in inputs(B, L, D, inner)]
    dy = torch.randn(B, L, D)

    def run(op=ops.token_mixer):
        return torch.autograd.grad(op(*made), made, dy)

    torch.testing.assert_close(run(), run(reference.token_mixer), rtol=1e-3, atol=1e-3)
    measure("token_mixer_grad", f"{(B, L, D, inner)},float32", 3 * moved(made), run)
