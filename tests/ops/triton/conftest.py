"""Runs the kernels on a GPU, or on a CPU in Triton's interpreter, which ``test_interpreter.py`` starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.ops._core import registry

GUARD = 64  # elements before and after a tensor; keeps its alignment
SEEN: list[str] = []  # shared by all tests, because a kernel keeps the launcher that it was compiled with


@pytest.fixture(autouse=True)
def needs_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")


@pytest.fixture
def device() -> torch.device:
    if registry.INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU; test_interpreter.py runs these tests in Triton's interpreter")
    return torch.device("cuda")


@pytest.fixture
def triton(device: torch.device) -> Iterator[None]:
    """The Triton backend; every torch.empty returns NaN."""
    torch.use_deterministic_algorithms(True)
    with ops.use_backend("triton"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Surrounds tensors with bands of NaN: inputs that are passed through it, and all tensors that a launcher
    allocates.

    A kernel that reads a band computes NaN; a write to a band is detected at the end.
    """
    bands = []

    def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        count = torch.Size(shape).numel()
        whole = torch.zeros(count + 2 * GUARD, dtype=dtype, device=device)
        whole.fill_(torch.nan if dtype.is_floating_point else 119)
        bands.append((whole, whole.clone(), count))
        return whole[GUARD : GUARD + count].view(shape)

    plain = torch.Tensor.new_empty

    def new_empty(self: Tensor, *shape: object, dtype: torch.dtype | None = None, **options: object) -> Tensor:
        if options:  # a call by the interpreter
            return plain(self, *shape, dtype=dtype, **options)
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return allocate(tuple(sizes), dtype or self.dtype, self.device)

    def guard(tensor: Tensor) -> Tensor:
        return allocate(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", lambda t, **_: allocate(t.shape, t.dtype, t.device))
    yield guard
    assert len(bands) > 2
    for whole, previous, count in bands:
        for band in (slice(GUARD), slice(GUARD + count, None)):
            assert torch.equal(whole[band].isnan(), previous[band].isnan())
            assert torch.equal(whole[band].nan_to_num(), previous[band].nan_to_num())


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels whose launch reached the driver. The driver is a stand-in, so no GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        utils = SimpleNamespace(
            load_binary=lambda name, *_: (name, name, 255, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132},
        )

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
            return lambda *_, **__: SEEN.append(source.name)

    monkeypatch.setattr(driver, "_active", Driver())
    return SEEN
