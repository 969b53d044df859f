"""Part b: every op against its reference, ``torch.compile`` of it and Liger-Kernel (where it can be imported).

Milliseconds, GB/s of the bytes that must move, TFLOP/s, and both as shares of what a copy and a large product reach in
the same run. An implementation that is wrong has an error and no time. Bytes that fit the cache (``l2_bytes``) are read
there again and again, as in a training step: their share may be more than all of a copy's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from common import Report, ceilings, dtype_of, interleaved, options, synchronize
from op_cases import Case, cases
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import backend, reference

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 4e-2}  # relative L2 against float32


def implementations(case: Case, device: str, compiled: bool) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {"reference": lambda: case.call(reference)}
    if case.leaves and compiled:
        # The case's own function: a lambda of this place would be one function for all cases, of which torch.compile
        # compiles eight variants and calls the others as they are.
        traced = torch.compile(case.call, dynamic=False)
        found["compile"] = lambda: traced(reference)
    dtype = dtype_of(device) if case.leaves else torch.float32  # the optimizer's weights
    for name in ("cpp",) if device == "cpu" else ("triton", "cuda"):
        if backend.unavailable(case.op, name, torch.device(device).type, dtype) is None:
            found[name] = lambda: case.call(ops)
    return found | liger(case)


def liger(case: Case) -> dict[str, Callable[[], Any]]:
    """Liger's kernels for the same mathematics, where it has them: RMSNorm (with a weight of ones) and SwiGLU."""
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return {}
    if (case.op, case.label) == ("rms_norm", "channels"):
        h, r = case.leaves
        ones = torch.ones(h.shape[-1], device=h.device, dtype=h.dtype)
        return {"liger": lambda: LigerRMSNormFunction.apply(h + r, ones, 1e-5)}
    if case.op == "swiglu":
        return {"liger": lambda: LigerSiLUMulFunction.apply(*case.leaves[0].chunk(2, dim=-1))}
    return {}


def error_of(case: Case, run: Callable[[], Any]) -> float:
    """Relative L2 of the result, against the reference on float32 copies of the same inputs."""
    with torch.no_grad():
        got = run()
    if not isinstance(got, Tensor):
        return 0.0
    with torch.no_grad():
        saved = [leaf.data for leaf in case.leaves]
        try:
            for leaf in case.leaves:
                leaf.data = leaf.data.float()
            want = case.call(reference)
        finally:
            for leaf, data in zip(case.leaves, saved, strict=True):
                leaf.data = data
    assert isinstance(want, Tensor)
    return float((got.double() - want.double()).norm() / want.double().norm())


def alone(run: Callable[[], Any]) -> None:
    with torch.no_grad():
        run()


def with_gradients(run: Callable[[], Any], leaves: list[Tensor], direction: Tensor) -> None:
    torch.autograd.grad(run(), leaves, direction)


def measured(case: Case, device: str, batch: int, backward: bool, top: dict[str, float]) -> dict[str, Any]:
    good: dict[str, Callable[[], Any]] = {}
    bad: dict[str, str] = {}
    errors: dict[str, float] = {}

    def around(name: str) -> Any:
        return ops.use_backend(name, [case.op]) if name in backend.BACKENDS[2:] else nullcontext()

    for name, run in implementations(case, device, batch == 768).items():
        try:
            with around(name):
                errors[name] = error_of(case, run)
            if not errors[name] < TOLERANCE[dtype_of(device)]:
                raise ArithmeticError(f"relative error {errors[name]:.2e}")
            timed = partial(alone, run)
            if backward:
                with around(name):
                    timed = partial(with_gradients, run, case.leaves, torch.randn_like(run()))
                    timed()
                    synchronize(device)
        except Exception as problem:  # one implementation must not cost the others
            bad[name] = f"{type(problem).__name__}: {problem}"[:300]
            continue
        good[name] = timed
    moved, flop = (case.bytes + case.backward_bytes, 3 * case.flop) if backward else (case.bytes, case.flop)
    rows = {}
    for name, ms in interleaved(good, device, 3 if batch < 8 else 7, around=around).items():
        gbps, tflops = 1e-6 * moved / ms, 1e-9 * flop / ms
        rows[name] = {
            "ms": round(ms, 5), "error": errors[name], "gb_per_s": round(gbps, 1), "tflops": round(tflops, 2),
            "share_of_copy": round(gbps / (1e3 * top["copy_tbps"]), 3),
            "share_of_gemm": round(tflops / top["gemm_tflops"], 3),
        }  # fmt: skip
    return {"bytes": moved, "flop": flop, "implementations": rows, "failed": bad}


def main() -> None:
    asked = options(__doc__).parse_args()
    device, tiny = asked.device, asked.tiny
    report = Report(asked.out, "b_ops", device)
    if torch.device(device).type == "cuda":
        report.about["l2_bytes"] = torch.cuda.get_device_properties(device).L2_cache_size
    top = report.attempt("ceilings", lambda: ceilings(device, tiny))
    if "error" in top:
        top = {"copy_tbps": float("nan"), "gemm_tflops": float("nan")}
    for batch in (2,) if tiny else (768, 64, 8):
        for case in cases(batch, tiny, dtype_of(device), device):
            for backward in (False, True) if case.backward else (False,):
                direction = "forward+backward" if backward else "forward"
                name = ":".join(part for part in (case.op, case.label, str(batch), direction) if part)
                report.attempt(name, partial(measured, case, device, batch, backward, top))


if __name__ == "__main__":
    main()
