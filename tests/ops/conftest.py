"""Fixtures of the op tests: backends, instruction sets, and comparisons with the reference."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry, validation

ISAS = (
    ("portable", "neon", "neonbf16")
    if platform.machine() in ("aarch64", "arm64")
    else ("portable", "avx2", "avx512", "avx512bf16", "amxbf16")
)


@pytest.fixture
def native() -> Any:
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    return importlib.import_module("trm_fast._C")


@pytest.fixture
def cpp(native: Any) -> Iterator[None]:
    """The C++ backend; every torch.empty returns NaN."""
    torch.use_deterministic_algorithms(True)
    with ops.use_backend("cpp"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, native: Any, cpp: None) -> Iterator[str]:
    """The C++ backend with each instruction set that this machine has."""
    previous = native.cpu_path()
    try:
        native.set_cpu_path(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.set_cpu_path(previous)


def _run(op: Callable[..., Tensor], inputs: Sequence[Any], grad: Tensor, kwargs: dict[str, Any]) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() if _is_float(t) else t for t in inputs]
    out = op(*leaves, **kwargs)
    differentiable = [t for t in leaves if _is_float(t)]
    return [out.detach(), *torch.autograd.grad(out, differentiable, grad.to(out.dtype).expand(out.shape))]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def error_bound(kernel: Tensor, plain: Tensor, truth: Tensor, factor: float, scale: Tensor) -> None:
    """Asserts that the error is within the tolerance of the kernels' check."""
    assert validation.disagreement(kernel, plain, truth, factor, scale) is None


@pytest.fixture
def check() -> Callable[..., None]:
    """Compares the forward and the gradients of an op with its reference in float64."""

    def run(name: str, *inputs: Any, grad: Tensor | None = None, **kwargs: Any) -> None:
        oracle = getattr(reference, name)
        wide = [t.double() if _is_float(t) else t for t in inputs]
        if grad is None:
            shape = oracle(*wide, **kwargs).shape
            grad = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            grad = grad.to(inputs[0].device, inputs[0].dtype)
        kernel = _run(getattr(ops, name), inputs, grad, kwargs)
        plain = _run(oracle, inputs, grad, kwargs)
        truth = _run(oracle, wide, grad.double(), kwargs)
        for i, (k, p, t) in enumerate(zip(kernel, plain, truth, strict=True)):
            error_bound(k, p, t, factor=3 if i else 2, scale=grad.double() if i else t)

    return run


@pytest.fixture
def judge() -> Callable[..., None]:
    """Compares an output and its first gradients, computed by a kernel, with the reference in float64."""

    def run(
        kernel: Sequence[Tensor], op: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, **options: Any
    ) -> None:
        plain = _run(op, inputs, grad, options)
        truth = _run(op, [t.double() for t in inputs], grad.double(), options)
        for i, (k, p, t) in enumerate(zip(kernel, plain, truth, strict=False)):
            error_bound(k, p, t, factor=3 if i else 2, scale=grad.double() if i else t)

    return run


@pytest.fixture
def same_specials() -> Callable[..., None]:
    """Asserts that NaN and infinity appear exactly where the reference has them, and that the rest is close."""

    def run(name: str, *inputs: Any, **kwargs: Any) -> None:
        shape = getattr(reference, name)(*inputs, **kwargs).shape
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        got = _run(getattr(ops, name), inputs, grad, kwargs)
        want = _run(getattr(reference, name), inputs, grad, kwargs)
        for g, w in zip(got, want, strict=True):
            finite = w.isfinite()
            torch.testing.assert_close(g.where(~finite, 0), w.where(~finite, 0), equal_nan=True)
            difference, size = (g - w).where(finite, 0), w.where(finite, 0)
            largest = size.abs().max().clamp_min(torch.finfo(w.dtype).tiny)
            assert (difference / largest).abs().max() < 2e-6

    return run


@pytest.fixture
def gates() -> Callable[..., None]:
    """Asserts that each element of a layer's result and gradient is close to the reference in float64, for one hidden
    channel whose gate runs from -120 to 120. ``dim`` is the axis that the layer mixes."""

    def run(name: str, dim: int) -> None:
        gate = torch.linspace(-120, 120, 1001)
        h, weights = torch.stack([gate, torch.ones_like(gate)])[None], [torch.eye(2), torch.tensor([[0.0], [1.0]])]
        h = (h.mT if dim == -1 else h).contiguous()
        got = _run(getattr(ops, name), (h, *weights), torch.ones_like(h), {})
        exact = [t.double() for t in (h, *weights)]
        want = _run(getattr(reference, name), exact, torch.ones_like(exact[0]), {})
        for g, w in zip(got[:2], want[:2], strict=True):  # gradients of weights are sums, whose terms cancel
            torch.testing.assert_close(g.double(), w, rtol=3e-6, atol=1e-6)

    return run


@pytest.fixture
def compiled() -> Callable[..., None]:
    """Asserts that an op compiles to one graph, forward and backward, with the results of eager mode."""

    def run(name: str, *inputs: Any, **kwargs: Any) -> None:
        op = getattr(ops, name)
        torch.compiler.reset()
        traced = torch.compile(lambda *args: op(*args, **kwargs), fullgraph=True, backend="aot_eager")
        grad = torch.ones(())
        for got, want in zip(_run(traced, inputs, grad, {}), _run(op, inputs, grad, kwargs), strict=True):
            torch.testing.assert_close(got, want)

    return run


@pytest.fixture
def random() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return make
