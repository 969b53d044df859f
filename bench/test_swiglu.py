from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

CASES = [
    pytest.param((16, 97, 3072), -1, torch.float32, id="channels"),
    pytest.param((16, 1024, 512), 1, torch.float32, id="tokens"),
    pytest.param((16, 97, 3072), -1, torch.bfloat16, id="channels-bfloat16"),
    pytest.param((64, 16, 512), -1, torch.float32, id="small"),
]


@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_forward(measure, shape, dim, dtype):
    x = torch.randn(shape).to(dtype)
    torch.testing.assert_close(ops.swiglu(x, dim).double(), reference.swiglu(x.double(), dim), rtol=1e-2, atol=1e-6)
    measure("swiglu", f"{shape} dim {dim},{dtype}", x.numel() * x.element_size() * 3 // 2, lambda: ops.swiglu(x, dim))


@pytest.mark.parametrize(("shape", "dim", "dtype"), CASES)
def test_forward_backward(measure, shape, dim, dtype):
    x = torch.randn(shape).to(dtype).requires_grad_()
    dout = torch.randn_like(reference.swiglu(x.detach(), dim))

    def run(op=ops.swiglu):
        return torch.autograd.grad(op(x, dim), x, dout)

    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(run(), run(reference.swiglu), rtol=tolerance, atol=tolerance)
    measure("swiglu_grad", f"{shape} dim {dim},{dtype}", 4 * x.numel() * x.element_size(), run)
