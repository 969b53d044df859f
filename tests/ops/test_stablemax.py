"""The ops stablemax and stablemax_cross_entropy against their reference and their definition."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def labels_for(shape, classes, ignored=True):
    labels = torch.arange(int(torch.tensor(shape).prod())).reshape(shape) % classes if classes else torch.zeros(shape)
    return labels.long().where(labels % 3 != 1, -100) if ignored else labels.long()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 7, 11), -1), ((3, 7, 11), 1), ((5, 130), 0), ((4, 1), -1), ((0, 3), -1), ((3, 0), -1)]
)
def test_agrees_with_reference(isa, check, random, shape, dim, dtype):
    check("stablemax", 3 * random(*shape, dtype=dtype), dim=dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 7, 11), (97, 2), (1, 1), (2, 300), (0, 5), (5,)])
@pytest.mark.parametrize("label_dtype", [torch.int64, torch.int32])
def test_cross_entropy_agrees_with_reference(isa, check, random, shape, dtype, label_dtype):
    labels = labels_for(shape[:-1], shape[-1]).to(label_dtype)
    check("stablemax_cross_entropy", 3 * random(*shape, dtype=dtype), labels)


@pytest.mark.parametrize("op", [ops.stablemax, reference.stablemax])
def test_definition(op):
    """Both branches, computed by hand: s = 1/3, 1, 3."""
    p = op(torch.tensor([-2.0, 0.0, 2.0]))
    assert p.dtype == torch.float64
    torch.testing.assert_close(p, torch.tensor([1 / 3, 1, 3], dtype=torch.float64) / (13 / 3))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_gradient_at_the_branch(native, backend):
    """s'(0) = 1 from both sides; s'(1) is finite, although 1 / (1 - x) in the other branch is not."""
    x = torch.tensor([0.0, -0.0, 1.0, 1 + 1e-7]).requires_grad_()
    with ops.use_backend(backend):
        (dx,) = torch.autograd.grad(ops.stablemax_cross_entropy(x, torch.tensor(0)), x)
    total = 1 + 1 + 2 + 2
    torch.testing.assert_close(dx, torch.tensor([1 / total - 1, 1 / total, 1 / total, 1 / total]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_magnitudes(isa, same_specials, random, scale):
    x = random(4, 11) * scale
    same_specials("stablemax", x)
    same_specials("stablemax_cross_entropy", x, labels_for((4,), 11))


def test_specials(isa, same_specials, random):
    x = random(4, 11)
    x[0, 3], x[2, 5], x[3, 0] = torch.nan, torch.inf, -torch.inf
    same_specials("stablemax", x)
    same_specials("stablemax_cross_entropy", x, torch.tensor([1, 2, 3, 4]))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_ignored_positions_have_no_loss_and_no_gradient(native, backend):
    """Ignored positions have no loss and no gradient, even for a NaN."""
    x = torch.full((2, 3), torch.nan).requires_grad_()
    with ops.use_backend(backend):
        loss = ops.stablemax_cross_entropy(x, torch.tensor([7, 7]), ignore_index=7)
        (dx,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(loss, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(dx, torch.zeros(2, 3))


def test_any_layout(cpp, check, random):
    check("stablemax", random(3, 11, 7).transpose(1, 2), grad=torch.ones(()))
    labels = labels_for((7, 3), 11).t()
    check("stablemax_cross_entropy", random(3, 11, 7).transpose(1, 2), labels, grad=torch.ones(()))
    check("stablemax_cross_entropy", random(1, 11).expand(6, 11), torch.tensor(2).expand(6))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_gradcheck(native, random, backend):
    x = random(4, 3, 5, dtype=torch.float64).requires_grad_()
    labels = labels_for((4, 3), 5)
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(ops.stablemax, (x,))
        assert torch.autograd.gradcheck(lambda t: ops.stablemax(t, 1), (x,))
        assert torch.autograd.gradcheck(lambda t: ops.stablemax_cross_entropy(t, labels), (x,))


def test_opcheck(cpp, random):
    x, labels, wide = random(4, 5), labels_for((4,), 5), random(4, 5, dtype=torch.float64)
    loss, total = torch.ops.trm_fast.stablemax_cross_entropy_fwd(x, labels, -100)
    for op, args in [
        ("stablemax_fwd", (x, -1)),
        ("stablemax_bwd", (wide, x, -1)),
        ("stablemax_cross_entropy_fwd", (x, labels, -100)),
        ("stablemax_cross_entropy_bwd", (loss, x, labels, total, -100)),
    ]:
        torch.library.opcheck(getattr(torch.ops.trm_fast, op).default, args)


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("stablemax", random(4, 5), dim=0)
    compiled("stablemax_cross_entropy", random(4, 5), labels_for((4,), 5))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("label", [5, -1])
def test_label_out_of_range(native, backend, label):
    with ops.use_backend(backend), pytest.raises(RuntimeError, match=rf"{label}.*(in \[0, 5\)|out of bounds)"):
        ops.stablemax_cross_entropy(torch.zeros(2, 5), torch.tensor([0, label]))


def test_wrong_labels():
    with pytest.raises(TypeError, match="must be integers"):
        ops.stablemax_cross_entropy(torch.zeros(2, 5), torch.zeros(2))
    with pytest.raises(ValueError, match=r"labels must have the shape"):
        ops.stablemax_cross_entropy(torch.zeros(2, 5), torch.zeros(3, dtype=torch.long))
