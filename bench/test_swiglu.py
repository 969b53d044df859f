from __future__ import annotations

import pytest
import torch

CASES = [
    pytest.param((16, 97, 3072), -1, torch.float32, id="channels"),
    pytest.param((16, 1024, 512), 1, torch.float32, id="tokens"),
    pytest.param((16, 97, 3072), -1, torch.bfloat16, id="channels-bfloat16"),
    pytest.param((64, 16, 512), -1, torch.float32, id="small"),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_swiglu(beside_reference, shape, dim, dtype, backward):
    x = torch.randn(shape).to(dtype).requires_grad_(backward)
    moved = x.numel() * x.element_size() * (8 if backward else 3) // 2
    leaves, tolerance = [x] if backward else (), 3e-2 if dtype == torch.bfloat16 else 1e-5
    beside_reference("swiglu", f"{shape} dim {dim},{dtype}", moved, lambda op: op(x, dim), leaves, tolerance)
