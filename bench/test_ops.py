"""Times every op beside its reference: ``pytest bench --benchmark-only``, or one of them with ``-k rms_norm``.

The inputs are those that the op's own file declares for timing. Each implementation is first compared with the
reference in float64. In addition to the times, it reports GB/s, counting the bytes that must be read or written.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import report
from trm_fast.ops._core import validation
from trm_fast.ops._core.registry import EXTENSION_MISSING, OPS

DIRECTIONS = [
    (name, backward)
    for name, op in OPS.items()
    for backward in (False, True)
    if op.timed(1).differentiable or not backward
]


@pytest.mark.parametrize("implementation", ["reference", "compiled", "cpp"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("name", "backward"), DIRECTIONS, ids=[f"{name}-{'backward' if back else 'forward'}" for name, back in DIRECTIONS]
)
def test_op(benchmark: Any, name: str, backward: bool, batch: int, implementation: str) -> None:
    if implementation == "cpp" and EXTENSION_MISSING:
        pytest.skip(EXTENSION_MISSING)
    op, case = OPS[name], OPS[name].timed(batch)
    if not backward:
        case = case._replace(differentiable=0)
    if implementation == "compiled":
        torch.compiler.reset()
        op = dataclasses.replace(op, function=torch.compile(op.reference, dynamic=False))
    inputs = case.inputs(torch.float32, torch.device("cpu"))
    with ops.use_backend("cpp" if implementation == "cpp" else "reference"):
        results = case.run(op.function, inputs)
        assert validation.compare_with_reference(op, case, inputs, results) is None
        moved = sum(tensor.nbytes for tensor in (*inputs, *results.values()))
        benchmark.group = f"{name} {'forward and backward' if backward else 'forward'}, batch {batch}, float32, cpu"
        benchmark.pedantic(report.work(op, case, inputs), warmup_rounds=2, rounds=15, iterations=max(1, 2**22 // moved))
    benchmark.extra_info.update(
        implementation=implementation,
        cpu_path=ops.cpu_path() if implementation == "cpp" else "torch",
        threads=torch.get_num_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS", "unset"),
    )
    if benchmark.stats is not None:  # None if nothing is timed: --benchmark-disable, or a worker of pytest-xdist
        benchmark.extra_info["gb_per_s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)
