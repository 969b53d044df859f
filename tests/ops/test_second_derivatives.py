"""Second derivatives of every op, batches of gradients, and the transforms of torch.func, against the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jvp, vmap

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry

CASES = [
    pytest.param(op, case, id=f"{name}-{i}")
    for name, op in registry.OPS.items()
    for i, case in enumerate(op.cases)
    if case.differentiable and "cpp" in case.backends
]


def close(got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float = 1e-4) -> None:
    for g, w in zip(got, want, strict=True):
        error = (g.double() - w.double()).abs().max() / w.double().abs().max()
        assert error < tolerance


def second(op: Callable[..., Any], case: registry.Case, inputs: list[Tensor], constant: bool) -> list[Tensor]:
    """First and second derivatives, with a constant incoming gradient or one that is itself differentiated."""
    leaves = case.leaves(inputs)
    differentiable = leaves[: case.differentiable]
    out = case.call(op, *leaves)
    incoming = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    if not constant:
        differentiable.append(incoming.requires_grad_())
    first = torch.autograd.grad(out, leaves[: case.differentiable], incoming, create_graph=True)
    # The squares give every input a second derivative that does not run through the op: a lost part is no error.
    penalty = sum((g.sin() + g * g).sum() for g in first) + sum((t**3).sum() for t in differentiable)
    return [t.detach() for t in first] + list(torch.autograd.grad(penalty, differentiable))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("op", "case"), CASES)
def test_second_derivatives(cpp, op, case, constant):
    inputs = case.inputs(torch.float32, torch.device("cpu"))
    got = second(op.function, case, inputs, constant)
    wide = [t.double() if t.is_floating_point() else t for t in inputs]
    close(got, second(op.reference, case, wide, constant))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: ops.rms_norm(x, dim=1), (2, 3, 5)),
        (lambda x: ops.rms_norm(x, x.square()), (2, 5)),
        (ops.swiglu, (2, 6)),
        (ops.stablemax, (2, 5)),
        (lambda x: ops.stablemax_cross_entropy(x, torch.tensor([4, -100, 1])), (3, 5)),
    ],
)
def test_in_float64(native, random, backend, function, shape):
    x = random(*shape, dtype=torch.float64).requires_grad_()
    with ops.use_backend(backend):
        assert torch.autograd.gradgradcheck(function, (x,))


def test_attention_in_float64(random):
    tensors = [random(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 4), (12, 4), (4, 4))]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradgradcheck(lambda *t: ops.attention(*t, heads=2, mask=mask, causal=True), tensors)


def test_third_derivatives(cpp, random):
    def third(op: Callable[..., Tensor], x: Tensor) -> Tensor:
        t = x.detach().requires_grad_()
        d = op(t).sin().sum()
        for _ in range(3):
            (d,) = torch.autograd.grad(d.sum(), t, create_graph=True)
        return d.detach()

    x = random(3, 8)
    for name in ("rms_norm", "swiglu"):
        close([third(getattr(ops, name), x)], [third(getattr(reference, name), x.double())])


def test_the_same_tensor_twice(cpp, random):
    """As state and injection, and as the weights of two layers."""

    def derivatives(op: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        state, *weights = leaves
        first = torch.autograd.grad(op(state, state, weights + weights).sin().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(d.square().sum() for d in first), leaves))

    tensors = [random(2, 4, 6), *(random(*shape) / 2 for shape in ((8, 4), (4, 4), (8, 6), (6, 4)))]
    close(derivatives(ops.latent_step, *tensors), derivatives(reference.latent_step, *(t.double() for t in tensors)))


SMALL: list[tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = [
    (lambda m, x: m.rms_norm(x, x.square()), (2, 3, 4)),
    (lambda m, x: m.swiglu(x), (2, 3, 4)),
    (lambda m, x: m.stablemax(x), (2, 3, 4)),
    (lambda m, x: m.stablemax_cross_entropy(x, torch.zeros(x.shape[:-1], dtype=torch.int64)), (2, 3, 4)),
    (lambda m, x: m.mlp(x, *weights(x, 4)), (2, 3, 4)),
    (lambda m, x: m.token_mixer(x, *weights(x, 3)), (2, 3, 4)),
    (lambda m, x: m.group_mixer(x, *weights(x, 4, 8), torch.tensor([[0, 0, 1]])), (2, 3, 4)),
    (lambda m, x: m.attention(x, *weights(x, 4, 4, 12, 4), 2), (2, 3, 4)),
    (lambda m, x: m.latent_step(x, x.sin(), [*weights(x, 3), *weights(x, 4)]), (2, 3, 4)),
    (lambda m, x: torch.cat(m.latent_recursion(x, x.sin(), x, [*weights(x, 3), *weights(x, 4)], 2)), (2, 3, 4)),
]


def weights(x: Tensor, width: int, columns: int = 0, rows: int = 10, inner: int = 5) -> list[Tensor]:
    """The two weights of a layer, (rows, columns) and (width, inner)."""
    numbers = torch.arange(200.0, dtype=x.dtype).sin()
    columns = columns or width
    return [numbers[: rows * columns].view(rows, columns), numbers[-width * inner :].view(width, inner)]


def same(transform: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]], call: Any, x: Tensor) -> None:
    """A transformed op equals its transformed reference in float64."""
    got, want = (transform(partial(call, module)) for module in (ops, reference))
    close([got(x)], [want(x.double())])


@pytest.mark.parametrize(("call", "shape"), SMALL)
def test_transforms_of_torch_func(random, call, shape):
    x = random(*shape)
    tangent = torch.linspace(-1, 1, x.numel()).view_as(x)
    same(lambda f: grad(lambda t: f(t).sin().sum()), call, x)
    same(lambda f: lambda t: vmap(f)(torch.stack((t, 2 * t))), call, x)
    same(lambda f: lambda t: vmap(grad(lambda s: f(s).sin().sum()))(torch.stack((t, 2 * t))), call, x)
    same(lambda f: lambda t: jvp(f, (t,), (tangent.to(t.dtype),))[1], call, x)
    same(lambda f: hessian(lambda t: f(t).sin().sum()), call, x)


@pytest.mark.parametrize(("call", "shape"), SMALL)
def test_torch_autograd_functional(cpp, random, call, shape):
    x = random(*shape)
    for vectorize in (False, True):  # vectorized, the backward gets a batch of gradients
        same(lambda f, v=vectorize: lambda t: torch.autograd.functional.jacobian(f, t, vectorize=v), call, x)
        same(lambda f, v=vectorize: lambda t: torch.autograd.functional.hessian(
            lambda s: f(s).sin().sum(), t, vectorize=v), call, x)  # fmt: skip


@pytest.mark.parametrize(("call", "shape"), SMALL)
def test_forward_mode(random, call, shape):
    x = random(*shape)

    def tangent(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(t: Tensor) -> Tensor:
            with forward_ad.dual_level():
                return forward_ad.unpack_dual(function(forward_ad.make_dual(t, torch.ones_like(t)))).tangent

        return run

    same(tangent, call, x)


def test_a_requested_kernel_refuses_transforms(cpp, random):
    with pytest.raises(ops.BackendUnavailable, match=r"neither torch\.func's transforms nor forward-mode"):
        vmap(ops.swiglu)(random(2, 6))


def test_transforms_in_compiled_functions(random):
    x = random(3, 4)

    def inside(transform: Any) -> None:
        torch.compiler.reset()
        want = transform(reference.rms_norm)(x)
        got = torch.compile(lambda t: transform(ops.rms_norm)(t), fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, want)

    inside(lambda f: grad(lambda t: f(t).square().sum()))
    inside(lambda f: vmap(grad(lambda t: f(t).square().sum())))
    inside(lambda f: lambda t: jvp(f, (t,), (torch.ones_like(t),))[1])


def test_compiled_functions_refuse_second_derivatives(cpp, random):
    torch.compiler.reset()
    x = random(3, 4).requires_grad_()
    function = torch.compile(lambda t: ops.rms_norm(t).sum() + t.pow(2).sum(), fullgraph=True, backend="aot_eager")
    (dx,) = torch.autograd.grad(function(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        dx.pow(2).sum().backward()
