"""The op swiglu against its reference: results, gradients, accuracy at every magnitude, and errors."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((3, 97, 130), -1), ((3, 194, 13), 1), ((6, 5, 3), 0), ((2,), 0), ((0, 4, 6), -1), ((2, 0, 6), 1), ((2, 0), -1)],
)
def test_agrees_with_reference(isa, check, random, shape, dim, dtype):
    check("swiglu", 3 * random(*shape, dtype=dtype), dim=dim)


@pytest.mark.parametrize("dim", [-1, 1])
def test_any_layout(cpp, check, random, dim):
    check("swiglu", random(3, 10, 98).transpose(1, 2), dim=dim, grad=torch.ones(()))
    check("swiglu", random(1, 1, 10).expand(3, 98, 10), dim=dim)


def test_every_magnitude(isa, same_specials):
    """Gates for which exp overflows or is denormal, zeros of both signs, infinity and NaN."""
    gate = torch.cat([torch.linspace(-120, 120, 1001), torch.logspace(-40, 38, 79), -torch.logspace(-40, 38, 79)])
    gate = torch.cat([gate, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])])
    same_specials("swiglu", torch.cat([gate, torch.ones_like(gate)]))


def test_exp_is_accurate_to_two_ulp(isa):
    """silu(-x) / -x is 1 / (1 + e^x); for x > 20 its error is that of the exponential, plus the rounding of two
    divisions."""
    x = torch.linspace(20, 85, 20001)
    got = ops.swiglu(torch.cat([-x, torch.ones_like(x)])).double() / -x.double()
    want = 1 / (1 + x.double().exp())
    assert ((got - want) / want).abs().max() < 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("dim", [-1, 1])
def test_gradcheck(native, random, backend, dim):
    x = random(2, 4, 6, dtype=torch.float64).requires_grad_()
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(lambda t: ops.swiglu(t, dim), (x,))


@pytest.mark.parametrize("dim", [-1, 1])
def test_opcheck(cpp, random, dim):
    x = random(2, 4, 6)
    torch.library.opcheck(torch.ops.trm_fast.swiglu_fwd.default, (x, dim))
    torch.library.opcheck(torch.ops.trm_fast.swiglu_bwd.default, (reference.swiglu(x, dim), x, dim))


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("swiglu", random(2, 8, 6), dim=1)


def test_odd_axis():
    with pytest.raises(ValueError, match="must be even"):
        ops.swiglu(torch.zeros(2, 5))
