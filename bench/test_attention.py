from __future__ import annotations

import pytest
import torch

CASES = [
    pytest.param(16, 97, 512, 8, False, id="paper"),
    pytest.param(64, 81, 128, 4, False, id="sudoku-cpu"),
    pytest.param(64, 16, 64, 4, False, id="sudoku-4x4"),
    pytest.param(1, 916, 512, 8, False, id="maze"),
    pytest.param(4, 512, 128, 4, True, id="tool-generate"),  # causal, the shortest row half as long as the longest
]


def inputs(B, L, D):
    return torch.randn(B, L, D), torch.randn(3 * D, D) * D**-0.5, torch.randn(D, D) * D**-0.5


def tables(L, width):
    angles = torch.outer(torch.arange(L).float(), 1e4 ** -torch.linspace(0, 1, width // 2)).repeat(1, 2)
    return angles.cos(), angles.sin()


def masking(B, L, causal):
    """Causal order, and padding behind the rows, as in a batch of conversations of like length."""
    mask = torch.arange(L) < torch.linspace(L // 2, L, B).long().unsqueeze(1)
    return {"mask": mask, "causal": True} if causal else {}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("B", "L", "D", "heads", "causal"), CASES)
def test_attention(beside_reference, B, L, D, heads, causal, backward):
    made = [t.requires_grad_(backward) for t in inputs(B, L, D)]
    rotary, seen = tables(L, D // heads), masking(B, L, causal)
    moved, label = 4 * (2 * B * L * D + 4 * D * D), f"{(B, L, D, heads)}{',causal' * causal},float32"
    moved, leaves, tolerance = (3 * moved, made, 1e-3) if backward else (moved, (), 1e-4)
    beside_reference("attention", label, moved, lambda op: op(*made, heads, rotary, **seen), leaves, tolerance)
