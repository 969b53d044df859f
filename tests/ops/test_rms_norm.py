"""The op rms_norm against its reference: results, gradients, layouts, special values and errors."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SHAPES = [((3, 97, 130), -1), ((3, 97, 130), 1), ((2, 5, 64, 3), 2), ((200, 4), 0), ((7,), 0), ((1, 1, 1), -1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "dim"), [*SHAPES, ((0, 5, 8), -1), ((0, 5, 8), 1), ((2, 5, 0), 1)])
@pytest.mark.parametrize("with_residual", [True, False])
def test_agrees_with_reference(isa, check, random, shape, dim, dtype, with_residual):
    residual = random(*shape, dtype=dtype) if with_residual else None
    check("rms_norm", random(*shape, dtype=dtype), residual, dim=dim)


@pytest.mark.parametrize("dim", [-1, 1])
def test_any_layout(cpp, check, random, dim):
    transposed = random(3, 70, 97).transpose(1, 2)
    expanded = random(1, 1, 70).expand(3, 97, 70)
    check("rms_norm", transposed, expanded, dim=dim, grad=random(3, 1, 1).expand(3, 97, 70))


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e10, 1e30])
@pytest.mark.parametrize("dim", [-1, 1])
def test_magnitudes(isa, same_specials, random, scale, dim):
    same_specials("rms_norm", random(2, 33, 40) * scale, dim=dim)


@pytest.mark.parametrize("dim", [-1, 1])
def test_specials_stay_in_their_line(isa, same_specials, random, dim):
    x = random(2, 33, 40)
    x[0, 3, 5], x[1, 7, 39] = torch.nan, torch.inf
    same_specials("rms_norm", x, dim=dim)
    assert ops.rms_norm(x, dim=dim).isnan().sum() == x.shape[dim] + 1  # an infinite input makes only its own output NaN


def test_zero_input_is_zero(isa):
    assert torch.equal(ops.rms_norm(torch.zeros(2, 9)), torch.zeros(2, 9))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("dim", [-1, 1])
def test_gradcheck(native, random, backend, dim):
    x, residual = (random(2, 3, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(lambda a, b: ops.rms_norm(a, b, dim), (x, residual))


@pytest.mark.parametrize("dim", [-1, 1])
def test_opcheck(cpp, random, dim):
    x, residual = random(2, 3, 5), random(2, 3, 5)
    y, rstd = torch.ops.trm_fast.rms_norm_fwd(x, residual, dim, 1e-5)
    torch.library.opcheck(torch.ops.trm_fast.rms_norm_fwd.default, (x, residual, dim, 1e-5))
    torch.library.opcheck(torch.ops.trm_fast.rms_norm_bwd.default, (x, y, rstd, dim))


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("rms_norm", random(2, 9, 6), random(2, 9, 6), dim=1)


@pytest.mark.slow
def test_compiles_with_inductor(cpp, random):
    x = random(2, 9, 6).requires_grad_()
    torch.compiler.reset()
    step = torch.compile(lambda t: ops.rms_norm(t * 2, t, dim=1) + 1, fullgraph=True)
    (got,) = torch.autograd.grad(step(x).square().sum(), x)
    (want,) = torch.autograd.grad((reference.rms_norm(x * 2, x, dim=1) + 1).square().sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "residual", [torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, device="meta")]
)
def test_residual_must_agree(residual):
    with pytest.raises(ValueError, match="x and residual must agree"):
        ops.rms_norm(torch.zeros(2, 4), residual)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_no_such_axis(native, backend):
    with ops.use_backend(backend), pytest.raises((IndexError, RuntimeError), match=r"axis 2|out of range"):
        ops.rms_norm(torch.zeros(2, 4), dim=2)
