from __future__ import annotations

import pytest
import torch

CASES = [
    pytest.param((16, 97, 512), -1, torch.float32, id="channels"),
    pytest.param((16, 97, 512), 1, torch.float32, id="tokens"),
    pytest.param((16, 97, 512), -1, torch.bfloat16, id="channels-bfloat16"),
    pytest.param((64, 16, 64), -1, torch.float32, id="small"),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_rms_norm(beside_reference, shape, dim, dtype, backward):
    made = [torch.randn(shape).to(dtype).requires_grad_(backward) for _ in range(2)]
    leaves, tolerance = (made, 3e-2 if dtype == torch.bfloat16 else 1e-5) if backward else ((), None)
    moved = (6 if backward else 3) * made[0].numel() * made[0].element_size()
    beside_reference("rms_norm", f"{shape} dim {dim},{dtype}", moved, lambda op: op(*made, dim), leaves, tolerance)
