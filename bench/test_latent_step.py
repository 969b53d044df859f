from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [pytest.param(64, 16, 64, 256, id="sudoku-4x4")]


def inputs(B, L, D, inner):
    shapes = 2 * [(2 * inner, L), (L, inner), (2 * inner, D), (D, inner)]
    return [torch.randn(B, L, D), torch.randn(B, L, D), *(torch.randn(shape) * shape[1] ** -0.5 for shape in shapes)]


def moved(made):
    return 4 * (made[0].numel() + sum(t.numel() for t in made))


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward(measure, B, L, D, inner):
    z, x, *weights = made = inputs(B, L, D, inner)
    want = reference.latent_step(z, x, weights)
    torch.testing.assert_close(ops.latent_step(z, x, weights), want, rtol=1e-4, atol=1e-4)
    measure("latent_step", f"{(B, L, D, inner)},float32", moved(made), lambda: ops.latent_step(z, x, weights))


@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_forward_backward(measure, B, L, D, inner):
    z, x, *weights = made = [t.requires_grad_() for t in inputs(B, L, D, inner)]
    dy = torch.randn(B, L, D)

    def run(op=ops.latent_step):
        return torch.autograd.grad(op(z, x, weights), made, dy)

    torch.testing.assert_close(run(), run(reference.latent_step), rtol=1e-3, atol=1e-3)
    measure("latent_step_grad", f"{(B, L, D, inner)},float32", 3 * moved(made), run)
