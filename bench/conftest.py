"""Benchmarks of single ops: ``pytest bench --benchmark-only``, in groups ``op[shape,dtype,device]``.

A benchmark first asserts that the implementation is right, then reports GB/s of the bytes that must move.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry

OPS = list(registry.OPS)


@pytest.fixture(params=["reference", "compiled", "cpp"])
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The reference, the same through ``torch.compile``, and the C++ kernels."""
    if request.param == "cpp" and registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    if request.param == "compiled":
        torch.compiler.reset()
        for name in OPS:
            monkeypatch.setattr(ops, name, torch.compile(getattr(reference, name), dynamic=False))
    with ops.use_backend("reference" if request.param == "compiled" else request.param):
        yield request.param


@pytest.fixture
def measure(benchmark: Any, impl: str) -> Callable[..., None]:
    """Times ``run()``, which moves at least ``moved`` bytes; ``label`` goes into the group's name."""

    def measured(op: str, label: str, moved: int, run: Callable[[], Any]) -> None:
        benchmark.group = f"{op}[{label},cpu]"
        benchmark.pedantic(run, warmup_rounds=2, rounds=15, iterations=max(1, 2**22 // moved))
        benchmark.extra_info.update(
            impl=impl,
            cpu_path=ops.cpu_path() if impl == "cpp" else "torch",
            threads=torch.get_num_threads(),
            omp_num_threads=os.environ.get("OMP_NUM_THREADS", "unset"),
        )
        if benchmark.stats is not None:  # None where nothing is timed: --benchmark-disable, or a worker of pytest-xdist
            benchmark.extra_info["gb_per_s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)

    return measured


@pytest.fixture
def beside_reference(measure: Callable[..., None]) -> Callable[..., None]:
    """Asserts that an op gives what its reference does, and times it. ``call`` calls either; with ``leaves``, their
    gradients are the result, under a random one."""

    def measured(
        name: str,
        label: str,
        moved: int,
        call: Callable[[Callable[..., Any]], torch.Tensor],
        leaves: Sequence[torch.Tensor] = (),
        tolerance: float | None = None,
    ) -> None:
        op = getattr(ops, name)
        dy = torch.randn_like(call(getattr(reference, name))) if leaves else None

        def run(op: Callable[..., Any] = op) -> Any:
            return torch.autograd.grad(call(op), leaves, dy) if leaves else call(op)

        torch.testing.assert_close(run(), run(getattr(reference, name)), rtol=tolerance, atol=tolerance)
        measure(f"{name}_grad" if leaves else name, label, moved, run)

    return measured
