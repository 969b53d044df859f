from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference


@pytest.mark.parametrize(("B", "L", "D", "inner"), [pytest.param(64, 16, 64, 256, id="sudoku-4x4")])
def test_forward(measure, B, L, D, inner):
    shapes = 2 * [(2 * inner, L), (L, inner), (2 * inner, D), (D, inner)]
    weights = [torch.randn(shape) * shape[1] ** -0.5 for shape in shapes]
    z, x = torch.randn(B, L, D), torch.randn(B, L, D)
    want = reference.latent_step(z, x, weights)
    torch.testing.assert_close(ops.latent_step(z, x, weights), want, rtol=1e-4, atol=1e-4)
    moved = 4 * (3 * z.numel() + sum(w.numel() for w in weights))
    measure("latent_step", f"{(B, L, D, inner)},float32", moved, lambda: ops.latent_step(z, x, weights))
