"""The tables of ``trm-fast info``: the backend of each op on this machine and why, the checks, and the timings."""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from trm_fast.ops._core import dispatch, selection, validation
from trm_fast.ops._core.registry import EXTENSION_MISSING, OPS, Case, Op, build_record, dtype_name

BATCHES = {"cpu": {"small": 2, "large": 24}, "cuda": {"small": 8, "large": 256}}  # batch sizes
WARM_UP, TIMED = {"cpu": 1, "cuda": 3}, {"cpu": 5, "cuda": 11}
REPEATS = {"cpu": 1, "cuda": 10}  # calls per timing at most, because synchronizing takes as long as a small kernel
MAX_REPEATED_SECONDS = 0.02  # seconds that repeated calls may take in one timing

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Wraps a function for replay, for example in a CUDA graph."""


class Row(NamedTuple):
    """One row of the table: an op on one device type, in one dtype."""

    op: str
    device: str
    dtype: str
    backend: str
    reasons: dict[str, str]  # backend -> "available", or why it is not available


def table(
    devices: Iterable[str] = ("cpu", "cuda"), dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16)
) -> list[Row]:
    """For each op, device type and dtype: the backend that is used, and why others are not available.

    It checks no kernels, and reports those that were not checked yet.

    Examples:
        >>> rows = table(["cpu"], [torch.float32])
        >>> "rms_norm" in {row.op for row in rows}
        True
    """
    rows = []
    for op in OPS:
        for device in devices:
            for dtype in dtypes:
                reasons = {name: _reason(op, name, device, dtype) for name in selection.BACKENDS[1:]}
                rows.append(Row(op, device, dtype_name(dtype), _backends_used(op, device, dtype, reasons), reasons))
    return rows


def _reason(op: str, backend: str, device: str, dtype: torch.dtype) -> str:
    if reason := selection.unavailable(op, backend, device, dtype):
        return reason
    if device not in selection.CHECKED or backend == "reference":
        return "available"
    verdict = validation.known_verdict(op, backend, dtype, device)
    if verdict is None:
        return "not checked on this device yet (trm-fast info --check)"
    return "available" if verdict == validation.PASSED else f"failed its check on this device: {verdict}"


def _backends_used(op: str, device: str, dtype: torch.dtype, reasons: dict[str, str]) -> str:
    requested = selection.requested_for(op)
    choice = selection.choices.get((op, device, dtype))
    if choice is None and requested == "auto" and device in selection.CHECKED:
        choice = dispatch.choose(op, device, dtype, [name for name in OPS[op].kernels if reasons[name] == "available"])
    if choice is None:
        return "reference" if requested in ("auto", "reference") else "none"
    return " / ".join(dict.fromkeys((choice.small, choice.large)))


def check_all(device: str) -> Iterator[tuple[str, str, str, str]]:
    """Checks every kernel of a device, even if it has a verdict; on a CPU, with every instruction set of that CPU.

    Yields:
        op, backend (with the instruction set), dtype, and "passed" or what is wrong.
    """
    for path in cpu_paths() if device == "cpu" else [""]:
        with _instruction_set(path):
            for op, backend, dtype in kernels_on(device):
                result = validation.verdict(op, backend, dtype, device, again=True)
                yield op, f"{backend} {path}".strip(), dtype_name(dtype), result


def cpu_paths() -> list[str]:
    """The instruction sets that the C++ kernels can use here, smallest first."""
    names, path = build_record().get("ops", {}).get("cpu", []), selection.cpu_path()
    if EXTENSION_MISSING:
        return []
    return names[: names.index(path) + 1] if path in names else [path]


@contextlib.contextmanager
def _instruction_set(path: str) -> Iterator[None]:
    if not path:
        yield
        return
    extension, previous = importlib.import_module("trm_fast._C"), selection.cpu_path()
    extension.set_cpu_path(path)
    try:
        yield
    finally:
        extension.set_cpu_path(previous)


def kernels_on(device: str) -> list[tuple[str, str, torch.dtype]]:
    """Every kernel that can run on a device type: op, backend and dtype."""
    return [
        (op, backend, dtype)
        for op, definition in OPS.items()
        for backend, dtypes in definition.kernels.items()
        for dtype in dtypes
        if selection.unavailable(op, backend, device, dtype) is None
    ]


def measure(
    device: str, recorder: Recorder = lambda work: work, dtypes: Sequence[torch.dtype] | None = None
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Times the reference and every kernel that passes its check, and stores the fastest for later processes.

    It times forward and backward together.

    Args:
        device: "cpu" or "cuda".
        recorder: wraps the timed function. On a GPU it should record a CUDA graph, because training and the solver
            replay graphs; otherwise the host's time would dominate for small inputs.
        dtypes: the dtypes to time; None for all.

    Yields:
        op, dtype, "small" or "large" inputs, and backend -> milliseconds (the median).
    """
    fastest = dispatch.timings(device)
    available = [row for row in kernels_on(device) if dtypes is None or row[2] in dtypes]
    for op, dtype in dict.fromkeys((op, dtype) for op, _, dtype in available):
        names = [name for row_op, name, row_dtype in available if (row_op, row_dtype) == (op, dtype)]
        names = [name for name in names if validation.verdict(op, name, dtype, device) == validation.PASSED]
        for size, batch in BATCHES[device].items() if names else ():
            case = OPS[op].timed(batch)
            times = _times(OPS[op], ["reference", *names], dtype, torch.device(device), case, recorder)
            if times:
                fastest.setdefault(f"{op}/{dtype_name(dtype)}", {})[size] = min(times, key=lambda name: times[name])
                with contextlib.suppress(OSError):  # write now, because a later kernel may crash the process
                    (validation.cache_folder(device) / "measured.json").write_text(json.dumps(fastest, indent=1))
                yield op, dtype_name(dtype), size, times


def _times(
    op: Op, names: Sequence[str], dtype: torch.dtype, device: torch.device, case: Case, recorder: Recorder
) -> dict[str, float]:
    """Milliseconds of the backends that can run the case. Some may run out of memory, or of registers for a block."""
    times = {}
    for name in names:
        try:
            with selection.use_backend(name, ops=[op.name]):
                times[name] = _median(recorder(work(op, case, case.inputs(dtype, device))), device)
        except Exception as error:
            if not isinstance(error, RuntimeError | ValueError) and not type(error).__module__.startswith("triton"):
                raise
            warnings.warn(f"{op.name}, {name}, {dtype}: not timed ({str(error).splitlines()[0]})", stacklevel=3)
    return times


def work(op: Op, case: Case, inputs: Sequence[torch.Tensor]) -> Callable[[], None]:
    """The function to time: the call and its gradients, on the same tensors every time."""
    leaves, count = case.leaves(inputs), case.differentiable
    with torch.no_grad():
        grad = torch.randn_like(case.call(op.function, *leaves)) if count else None

    def step() -> None:
        out = case.call(op.function, *leaves)
        if count:
            torch.autograd.grad(out, leaves[:count], grad)

    return step


def _median(run: Callable[[], None], device: torch.device) -> float:
    """The median milliseconds of a call."""
    times, repeats = [], 1
    for _ in range(WARM_UP[device.type] + TIMED[device.type]):
        _wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        _wait(device)
        seconds = (time.perf_counter() - start) / repeats
        times.append(1e3 * seconds)
        repeats = max(1, min(REPEATS[device.type], int(MAX_REPEATED_SECONDS / max(seconds, 1e-9))))
    return statistics.median(times[WARM_UP[device.type] :])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
