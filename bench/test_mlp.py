from __future__ import annotations

import pytest
import torch

CASES = [
    pytest.param(16, 97, 512, 1536, id="paper"),
    pytest.param(64, 81, 128, 512, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 256, id="sudoku-4x4"),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("B", "L", "D", "inner"), CASES)
def test_mlp(beside_reference, B, L, D, inner, backward):
    shapes = (B, L, D), (2 * inner, D), (D, inner)
    h, *weights = [torch.randn(shape) for shape in shapes]
    made = [t.requires_grad_(backward) for t in (h, *(w * w.shape[1] ** -0.5 for w in weights))]
    moved = 4 * (2 * h.numel() + sum(w.numel() for w in weights)) * (3 if backward else 1)
    leaves, tolerance = (made, 1e-3) if backward else ((), 1e-4)
    beside_reference("mlp", f"{(B, L, D, inner)},float32", moved, lambda op: op(*made), leaves, tolerance)
