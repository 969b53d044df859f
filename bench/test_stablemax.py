from __future__ import annotations

import pytest
import torch

SHAPES = [(64, 81, 11), (64, 16, 6), (8, 900, 12)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_forward_backward(beside_reference, shape):
    logits, labels = torch.randn(shape).requires_grad_(), torch.randint(shape[-1], shape[:-1])
    moved = 3 * logits.numel() * 4 + 6 * labels.numel() * 8
    label = f"{shape},{logits.dtype}"
    beside_reference("stablemax_cross_entropy", label, moved, lambda op: op(logits, labels), [logits])


@pytest.mark.parametrize("shape", SHAPES)
def test_stablemax(beside_reference, shape):
    logits = torch.randn(shape)
    beside_reference("stablemax", f"{shape},{logits.dtype}", 12 * logits.numel(), lambda op: op(logits))
