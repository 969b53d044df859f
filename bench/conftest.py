"""Fixtures of the benchmarks of single ops: ``pytest bench --benchmark-only``, in groups ``op[shape,dtype,device]``.

A benchmark first checks the result, then reports the time and the GB/s of the bytes that must move.
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
    """The implementations that are compared: the reference, the compiled reference, and the C++ kernels."""
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
    """A function that times ``run()``, which moves at least ``moved`` bytes; ``label`` is part of the group's name."""

    def measured(op: str, label: str, moved: int, run: Callable[[], Any]) -> None:
        benchmark.group = f"{op}[{label},cpu]"
        benchmark.pedantic(run, warmup_rounds=2, rounds=15, iterations=max(1, 2**22 // moved))
        benchmark.extra_info.update(
            impl=impl,
            cpu_path=ops.cpu_path() if impl == "cpp" else "torch",
            threads=torch.get_num_threads(),
            omp_num_threads=os.environ.get("OMP_NUM_THREADS", "unset"),
        )
        if benchmark.stats is not None:  # None where nothing is timed: --benchmark-disable, workers of pytest-xdist
            benchmark.extra_info["gb_per_s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)

    return measured


@pytest.fixture
def beside_reference(measure: Callable[..., None]) -> Callable[..., None]:
    """A function that compares an op with its reference and times it. ``call`` calls either of them. With ``leaves``,
    the results are their gradients, from a random gradient of the output."""

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
