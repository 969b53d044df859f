from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

# B, L, D, inner over tokens, inner over channels, heads, n
CASES = [
    pytest.param(2, 97, 512, 512, 1536, 0, 6, id="paper-mixer"),
    pytest.param(2, 97, 512, 0, 1536, 8, 6, id="paper-attention"),
    pytest.param(16, 81, 128, 256, 512, 0, 6, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 256, 256, 0, 2, id="sudoku-4x4"),
    pytest.param(1, 97, 512, 512, 1536, 0, 6, id="one-puzzle"),
]


def inputs(B, L, D, over_tokens, over_channels, heads):
    mix = [(3 * D, D), (D, D)] if heads else [(2 * over_tokens, L), (L, over_tokens)]
    shapes = 2 * [*mix, (2 * over_channels, D), (D, over_channels)]
    return [torch.randn(B, L, D) for _ in range(3)], [torch.randn(s) * s[1] ** -0.5 for s in shapes]


def moved(states, weights):
    return 4 * (5 * states[0].numel() + sum(w.numel() for w in weights))


@pytest.mark.parametrize(("B", "L", "D", "over_tokens", "over_channels", "heads", "n"), CASES)
def test_forward(measure, B, L, D, over_tokens, over_channels, heads, n):
    states, weights = inputs(B, L, D, over_tokens, over_channels, heads)

    def run(op=ops.latent_recursion):
        return op(*states, weights, n, heads=heads)

    torch.testing.assert_close(run(), run(reference.latent_recursion), rtol=1e-3, atol=1e-3)
    measure("latent_recursion", f"{(B, L, D, heads, n)},float32", moved(states, weights), run)


@pytest.mark.parametrize(("B", "L", "D", "over_tokens", "over_channels", "heads", "n"), CASES)
def test_forward_backward(measure, B, L, D, over_tokens, over_channels, heads, n):
    states, weights = inputs(B, L, D, over_tokens, over_channels, heads)
    leaves = [t.requires_grad_() for t in (*states, *weights)]
    gradients = torch.randn(B, L, D), torch.randn(B, L, D)

    def run(op=ops.latent_recursion):
        return torch.autograd.grad(op(*leaves[:3], leaves[3:], n, heads=heads), leaves, gradients)

    for got, want in zip(run(), run(reference.latent_recursion), strict=True):
        assert (got - want).norm() < 1e-4 * want.norm()
    measure("latent_recursion_grad", f"{(B, L, D, heads, n)},float32", 3 * moved(states, weights), run)
