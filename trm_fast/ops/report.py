"""What each op takes here and why, and how long it takes: what ``trm-fast info`` shows."""

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
from trm_fast.ops._core.registry import EXTENSION_MISSING, OPS, Case, Op, dtype_name

BATCHES = {"cpu": {"small": 2, "large": 24}, "cuda": {"small": 8, "large": 256}}  # that stand for the inputs when timed
WARM_UP, TIMED = {"cpu": 1, "cuda": 3}, {"cpu": 5, "cuda": 11}
REPEATS = {"cpu": 1, "cuda": 10}  # calls a time, at most: a wait for the device costs as much as a small kernel
ENOUGH = 0.02  # seconds of calls a time: float32 products of a large batch take a tenth of a second each

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Wraps a function for replay: in a graph, say."""


class Row(NamedTuple):
    """A row of the table that ``trm-fast info`` prints."""

    op: str
    device: str
    dtype: str
    backend: str
    reasons: dict[str, str]  # backend -> "available", or why it is not taken


def table(
    devices: Iterable[str] = ("cpu", "cuda"), dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16)
) -> list[Row]:
    """For each op, device type and dtype: the backend taken, and for every backend "available" or why it is not.

    Kernels that are not checked yet are not checked now.
    """
    rows = []
    for op in OPS:
        for device in devices:
            for dtype in dtypes:
                reasons = {name: _reason(op, name, device, dtype) for name in selection.BACKENDS[1:]}
                rows.append(Row(op, device, dtype_name(dtype), _taken(op, device, dtype, reasons), reasons))
    return rows


def _reason(op: str, backend: str, device: str, dtype: torch.dtype) -> str:
    if reason := selection.unavailable(op, backend, device, dtype):
        return reason
    if device not in selection.CHECKED or backend == "reference":
        return "available"
    verdict = validation.known(op, backend, dtype, device)
    if verdict is None:
        return "not checked on this device yet (trm-fast info --check)"
    return "available" if verdict == validation.PASSED else f"failed its check on this device: {verdict}"


def _taken(op: str, device: str, dtype: torch.dtype, reasons: dict[str, str]) -> str:
    requested = selection.requested_for(op)
    choice = selection.choices.get((op, device, dtype))
    if choice is None and requested == "auto" and device in selection.CHECKED:
        choice = dispatch.choose(op, device, dtype, [name for name in OPS[op].kernels if reasons[name] == "available"])
    if choice is None:
        return "reference" if requested in ("auto", "reference") else "none"
    return " / ".join(dict.fromkeys((choice.small, choice.large)))


def check_all(device: str) -> Iterator[tuple[str, str, str, str]]:
    """Checks every kernel of ``device``, on a CPU with every instruction set that it runs, whatever is known of it: op,
    backend, dtype and "passed" or what is wrong."""
    for path in cpu_paths() if device == "cpu" else [""]:
        with _running_as(path):
            for op, backend, dtype in kernels_on(device):
                result = validation.verdict(op, backend, dtype, device, again=True)
                yield op, f"{backend} {path}".strip(), dtype_name(dtype), result


def cpu_paths() -> list[str]:
    """The instruction sets that the C++ kernels can run with here, the least first."""
    names = ("portable", "avx2", "avx512", selection.BFLOAT16_PATH)
    return [] if EXTENSION_MISSING else list(names[: names.index(selection.cpu_path()) + 1])


@contextlib.contextmanager
def _running_as(path: str) -> Iterator[None]:
    if not path:
        yield
        return
    extension, before = importlib.import_module("trm_fast._C"), selection.cpu_path()
    extension.set_cpu_path(path)
    try:
        yield
    finally:
        extension.set_cpu_path(before)


def kernels_on(device: str) -> list[tuple[str, str, torch.dtype]]:
    """Every kernel that can run there: op, backend and dtype."""
    return [
        (op, backend, dtype)
        for op, stated in OPS.items()
        for backend, dtypes in stated.kernels.items()
        for dtype in dtypes
        if selection.unavailable(op, backend, device, dtype) is None
    ]


def measure(
    device: str, recorder: Recorder = lambda work: work, dtypes: Sequence[torch.dtype] | None = None
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Times every kernel that passes its check beside the reference, and keeps which is the fastest.

    Forward and backward, but for kernels without a gradient: their forward against the reference's. Yields op, dtype,
    "small" or "large" inputs and backend -> milliseconds (the median).

    Training and the solver replay graphs on a GPU: ``recorder`` should, too, or the host's share decides about small
    inputs. ``dtypes``: those alone.
    """
    fastest = dispatch.timings(device)
    there = [row for row in kernels_on(device) if dtypes is None or row[2] in dtypes]
    for op, dtype in dict.fromkeys((op, dtype) for op, _, dtype in there):
        names = [name for other, name, kind in there if (other, kind) == (op, dtype)]
        names = [name for name in names if validation.verdict(op, name, dtype, device) == validation.PASSED]
        for size, batch in BATCHES[device].items() if names else ():
            case = OPS[op].timed(batch)
            if any(name in selection.without_gradient(op, dtype) for name in names):
                case = case._replace(differentiable=0)
            times = _times(OPS[op], ["reference", *names], dtype, torch.device(device), case, recorder)
            if times:
                fastest.setdefault(f"{op}/{dtype_name(dtype)}", {})[size] = min(times, key=lambda name: times[name])
                with contextlib.suppress(OSError):  # at once: a later one may take the process with it
                    (validation.cache_folder(device) / "measured.json").write_text(json.dumps(fastest, indent=1))
                yield op, dtype_name(dtype), size, times


def _times(
    op: Op, names: Sequence[str], dtype: torch.dtype, device: torch.device, case: Case, recorder: Recorder
) -> dict[str, float]:
    """Milliseconds of those that can run the case: one may lack memory for it, or a block's resources."""
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
    """The call and its gradients again and again, on the same tensors: all that is timed."""
    leaves, count = case.leaves(inputs), case.differentiable
    with torch.no_grad():
        grad = torch.randn_like(case.call(op.function, *leaves)) if count else None

    def step() -> None:
        out = case.call(op.function, *leaves)
        if count:
            torch.autograd.grad(out, leaves[:count], grad)

    return step


def _median(run: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of a call."""
    times, repeats = [], 1
    for _ in range(WARM_UP[device.type] + TIMED[device.type]):
        _wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        _wait(device)
        taken = (time.perf_counter() - start) / repeats
        times.append(1e3 * taken)
        repeats = max(1, min(REPEATS[device.type], int(ENOUGH / max(taken, 1e-9))))
    return statistics.median(times[WARM_UP[device.type] :])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
