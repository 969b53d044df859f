"""Which of the kernels that passed is the fastest: measured, a table of facts, never timed in a call.

``winners.json`` in the package holds what was measured for known cards; ``trm-fast info --measure`` times the kernels
on this machine and keeps the result beside the self-check's. Where nothing was measured, memory-bound ops take the
first kernel that passed (fewer passes over memory cannot be slower); matrix ops on a GPU take Triton's in 16 bits (they
run on the tensor cores, and keep from memory what a chain of products sends through it), in float32 the reference.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trm_fast.ops import backend, self_check
from trm_fast.ops.check_cases import Case, timed_case

CLASSES = ("small", "large")  # up to backend.SMALL elements of the first argument, and above
BATCHES = {"cpu": (2, 24), "cuda": (8, 256)}  # that stand for the classes when timed
WARM_UP, TIMED = {"cpu": 1, "cuda": 3}, {"cpu": 5, "cuda": 11}
REPEATS = {"cpu": 1, "cuda": 10}  # calls a time, at most: a wait for the device costs as much as a small kernel
ENOUGH = 0.02  # seconds of calls a time: float32 products of a large batch take a tenth of a second each
MATRIX_OPS = frozenset({"mlp", "token_mixer", "attention", "latent_step", "latent_recursion"})
PACKED = ("latent_step", "latent_recursion")  # take packed weights, which others than the fused kernels pass over
WITHOUT_GRADIENT = {"latent_recursion": 2}  # cycles of a published supervision step, besides the one with gradient
PREFERENCE = ("cpp", "cuda", "triton")

Table = dict[str, dict[str, dict[str, str]]]  # device name -> "op/dtype" -> shape class -> backend


def choose(device: str, op: str, dtype: torch.dtype, passed: Sequence[str]) -> tuple[str, str]:
    """The backend for small and for large inputs, among those that passed and the reference."""
    default = unmeasured(op, dtype, passed)
    measured = winners(device, op, dtype)
    small, large = (measured.get(size, default) for size in CLASSES)
    allowed = {*passed, "reference"}
    return small if small in allowed else default, large if large in allowed else default


def unmeasured(op: str, dtype: torch.dtype, passed: Sequence[str]) -> str:
    """The best of them by what is known of all cards."""
    order: Sequence[str] = PREFERENCE
    if op in MATRIX_OPS:
        order = ("cpp", "triton") if dtype.itemsize == 2 else ("cpp",)
    return next((name for name in order if name in passed), "reference")


def winners(device: str, op: str, dtype: torch.dtype) -> dict[str, str]:
    """Shape class -> the fastest backend, where it was measured: on this machine, or on such a card before."""
    return _tables().get(device, {}).get(_key(op, dtype), {})


def known(device: str) -> bool:
    """Whether anything was measured on such a device."""
    return self_check.device_name(device) in _tables()


Recorded = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes of a function what does the same again: a graph's replay, say."""


def measure(
    device: str, recorded: Recorded = lambda work: work, dtypes: Sequence[torch.dtype] | None = None
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Times every kernel that passed its self-check beside the reference, and keeps the winners.

    Forward and backward (``latent_recursion``: as a supervision step has it, two more cycles without gradient), but for
    kernels without a gradient: their forward against the reference's. Yields op, dtype, shape class and backend ->
    milliseconds (the median).

    Training and the solver replay graphs on a GPU: ``recorded`` should, too, or the host's share decides about small
    inputs. ``dtypes``: those alone.
    """
    name = self_check.device_name(device)
    table = _tables().setdefault(name, {})
    for op, dtype in _by_weight():
        if dtypes is not None and dtype not in dtypes:
            continue
        names = [b for b in backend.KERNELS[op] if backend.unavailable(op, b, device, dtype) is None]
        names = [b for b in names if self_check.passed(op, b, dtype, device)]
        if not names:
            continue
        for size, batch in zip(CLASSES, BATCHES[device], strict=True):
            case = timed_case(op, batch)
            if not all(backend.differentiable(op, b, dtype) for b in names):
                case = case._replace(differentiable=0)
            times = _times(op, ["reference", *names], dtype, torch.device(device), case, recorded)
            if times:
                table.setdefault(_key(op, dtype), {})[size] = min(times, key=lambda b: times[b])
                self_check.keep(_file(device), {name: table})  # at once: a later one may take the process with it
                yield op, str(dtype).removeprefix("torch."), size, times


def _by_weight() -> list[tuple[str, torch.dtype]]:
    """Every op and dtype, first those that most of a training step on a GPU is made of: the time may be short."""
    rows = [(op, dtype) for op, kinds in backend.KERNELS.items() for dtype in dict.fromkeys(sum(kinds.values(), ()))]

    def later(row: tuple[str, torch.dtype]) -> tuple[bool, ...]:
        op, dtype = row
        # Matrix ops in float32 take as long as all others together, and no part of a training step is one.
        slow = op in MATRIX_OPS and dtype == torch.float32
        return dtype not in (torch.bfloat16, torch.float32), slow, op not in MATRIX_OPS, op != "latent_recursion"

    return sorted(rows, key=later)


def _times(
    op: str, names: Sequence[str], dtype: torch.dtype, device: torch.device, case: Case, recorded: Recorded
) -> dict[str, float]:
    """Milliseconds of those that can run the case: one may lack memory for it, or a block's resources."""
    times = {}
    for name in names:
        try:
            times[name] = _milliseconds(op, name, dtype, device, case, recorded)
        except Exception as error:
            if not isinstance(error, RuntimeError | ValueError) and not type(error).__module__.startswith("triton"):
                raise
            warnings.warn(f"{op}, {name}, {dtype}: not timed ({str(error).splitlines()[0]})", stacklevel=3)
    return times


def _milliseconds(
    op: str, name: str, dtype: torch.dtype, device: torch.device, case: Case, recorded: Recorded
) -> float:
    from trm_fast import ops

    function: Callable[..., Any] = getattr(ops, op)
    inputs = case.inputs(dtype, device)
    if op in PACKED:  # as a training step has them
        function = partial(function, packed=ops.pack_weights(inputs[-4:], inputs[0].shape[1], dtype))
    with backend.use_backend(name, ops=[op]):
        taken = _median(recorded(case.work(function, inputs)), device)
        if (count := WITHOUT_GRADIENT.get(op)) and case.differentiable:
            taken += count * _median(recorded(case._replace(differentiable=0).work(function, inputs)), device)
    return taken


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


def _key(op: str, dtype: torch.dtype) -> str:
    return f"{op}/{str(dtype).removeprefix('torch.')}"


def _file(device: str) -> Path:
    path = self_check.cache_file(device)
    return path.with_name(f"winners-{path.name}")


@functools.cache
def _tables() -> Table:
    """The package's table, and over it what was measured on this machine."""
    tables: Table = json.loads((Path(__file__).parent / "winners.json").read_text())
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for name, rows in self_check.kept(_file(device)).items():
            tables[name] = tables.get(name, {}) | rows
    return tables
