"""Part ``op_table``: the time of every op by backend, at the sizes of the published model.

A row has milliseconds, GB/s of the bytes that must move, TFLOP/s, and both as shares of the rates that a copy and a
large product reach in the same run. A kernel with a wrong result gets an error and no time. Inputs that fit in the
cache (``l2_bytes``) stay there between calls, as in a training step, so their share of a copy's rate may exceed 1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from common import Part, dtype_of, interleaved, synchronize
from op_cases import OpCase, cases
from plan import Sizes
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import report
from trm_fast.ops._core.registry import OPS

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 4e-2}  # relative L2 against float32


def ceilings(device: str, sizes: Sizes) -> dict[str, float]:
    """TFLOP/s of a large product and TB/s of a copy (bytes read and written), on random data."""
    dtype, size, count = dtype_of(device), sizes.gemm_size, sizes.copy_elements
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    source = torch.randn(count, device=device, dtype=dtype)
    target = torch.empty_like(source)
    ms = interleaved({"gemm": lambda: a @ b, "copy": lambda: target.copy_(source)}, device)
    moved = 2 * count * source.element_size()
    return {"gemm_tflops": 2e-9 * size**3 / ms["gemm"], "copy_tbps": 1e-9 * moved / ms["copy"]}


def error_of(row: OpCase, inputs: list[Tensor]) -> float:
    """Relative L2 error of the result, compared with the reference on the same inputs in float32."""
    wide = [t.float() if t.is_floating_point() else t for t in inputs]
    with torch.no_grad():
        got = row.case.call(OPS[row.op].function, *row.case.leaves(inputs)).double()
        want = row.case.call(OPS[row.op].reference, *row.case.leaves(wide)).double()
    return float((got - want).norm() / want.norm())


def backends(op: str, dtype: torch.dtype, device: str) -> list[str]:
    """The reference and the backends that have a kernel of the op."""
    return ["reference", *(name for other, name, kind in report.kernels_on(device) if (other, kind) == (op, dtype))]


def measure_case(row: OpCase, device: str, backward: bool, top: dict[str, float]) -> dict[str, Any]:
    """Times and rates of one case by every backend; ``top`` holds the rates of a copy and a large product."""
    good: dict[str, Callable[[], None]] = {}
    bad: dict[str, str] = {}
    errors: dict[str, float] = {}
    dtype = dtype_of(device) if row.case.differentiable else torch.float32  # as the optimizer's weights are
    inputs = row.case.inputs(dtype, torch.device(device))
    case = row.case if backward else row.case._replace(differentiable=0)

    def around(name: str) -> AbstractContextManager[Any]:
        return ops.use_backend(name, [row.op])

    for name in backends(row.op, dtype, device):
        try:
            with around(name):
                errors[name] = error_of(row, inputs)
                if not errors[name] < TOLERANCE[dtype]:
                    raise ArithmeticError(f"relative error {errors[name]:.2e}")
                timed = report.work(OPS[row.op], case, inputs)
                timed()
                synchronize(device)
        except Exception as problem:  # the other backends are still measured
            bad[name] = f"{type(problem).__name__}: {problem}"[:300]
            continue
        good[name] = timed
    moved, flop = (row.bytes + row.backward_bytes, 3 * row.flop) if backward else (row.bytes, row.flop)
    rows = {}
    for name, ms in interleaved(good, device, 5, around=around).items():
        gbps, tflops = 1e-6 * moved / ms, 1e-9 * flop / ms
        rows[name] = {
            "ms": round(ms, 5), "error": errors[name], "gb_per_s": round(gbps, 1), "tflops": round(tflops, 2),
            "share_of_copy": round(gbps / (1e3 * top["copy_tbps"]), 3),
            "share_of_gemm": round(tflops / top["gemm_tflops"], 3),
        }  # fmt: skip
    failed = {"failed": bad, "error": f"failed: {', '.join(bad)}"} if bad else {}
    return {"bytes": moved, "flop": flop, "backends": rows, **failed}


def measure(part: Part) -> None:
    if part.device == "cuda":
        part.about["l2_bytes"] = torch.cuda.get_device_properties(part.device).L2_cache_size
    top = part.attempt("ceilings", lambda: ceilings(part.device, part.sizes))
    if "error" in top:
        top = {"copy_tbps": float("nan"), "gemm_tflops": float("nan")}
    for batch in part.sizes.op_batches:
        for row in cases(batch, part.sizes, dtype_of(part.device)):
            for backward in (True, False) if row.case.differentiable else (False,):
                words = (row.op, row.label, str(batch), "forward+backward" if backward else "forward")
                work = partial(measure_case, row, part.device, backward, top)
                part.attempt(":".join(filter(None, words)), work, min_seconds=2.0)
