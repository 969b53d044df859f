from __future__ import annotations

import pytest
import torch

CASES = [pytest.param(64, 16, 64, 256, id="sudoku-4x4")]


def inputs(B, L, D, inner):
    shapes = 2 * [(2 * inner, L), (L, inner), (2 * inner, D), (D, inner)]
    return [torch.randn(B, L, D), torch.randn(B, L, D), *(torch.randn(shape) * shape[1] ** -0.5 for shape in shapes)]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_latent_step(beside_reference, B, L, D, inner, backward):
    z, x, *weights = made = [t.requires_grad_(backward) for t in inputs(B, L, D, inner)]
    moved, label = 4 * (z.numel() + sum(t.numel() for t in made)), f"{(B, L, D, inner)},float32"
    moved, leaves, tolerance = (3 * moved, made, 1e-3) if backward else (moved, (), 1e-4)
    beside_reference("latent_step", label, moved, lambda op: op(z, x, weights), leaves, tolerance)
