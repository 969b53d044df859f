from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [
    pytest.param((16, 97, 512), -1, torch.float32, id="channels"),
    pytest.param((16, 97, 512), 1, torch.float32, id="tokens"),
    pytest.param((16, 97, 512), -1, torch.bfloat16, id="channels-bfloat16"),
    pytest.param((64, 16, 64), -1, torch.float32, id="small"),
]


@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_forward(measure, shape, dim, dtype):
    x, residual = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    torch.testing.assert_close(ops.rms_norm(x, residual, dim), reference.rms_norm(x, residual, dim))
    moved = 3 * x.numel() * x.element_size()
    measure("rms_norm", f"{shape} dim {dim},{dtype}", moved, lambda: ops.rms_norm(x, residual, dim))


@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_forward_backward(measure, shape, dim, dtype):
    x, residual = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(2))
    dy = torch.randn(shape).to(dtype)

    def run(op=ops.rms_norm):
        return torch.autograd.grad(op(x, residual, dim), (x, residual), dy)

    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(run(), run(reference.rms_norm), rtol=tolerance, atol=tolerance)
    measure("rms_norm_grad", f"{shape} dim {dim},{dtype}", 6 * x.numel() * x.element_size(), run)
