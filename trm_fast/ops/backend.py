"""Which implementation each op takes: one plain table, filled when the package loads or a backend is asked for.

Kernels are the dispatcher ops ``torch.ops.trm_fast.<op>_fwd`` and ``<op>_bwd``; the dispatcher knows C++ from CUDA by
the device. Triton's stand in a namespace of their own (``dispatch``). A call looks its backend up under (op, device
type, dtype): no environment reads, no imports, nothing that ``torch.compile`` could not trace.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trm_fast.errors import UserError

BACKENDS = ("auto", "reference", "cpp", "triton", "cuda")
# Triton reads this when it is imported: its kernels then run in Python on a CPU, slowly, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = {"cpp": "cpu", "triton": "cpu" if INTERPRETED else "cuda", "cuda": "cuda"}

_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
_FUSED = (torch.float32, torch.bfloat16)
_GPU_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_GPU_HALVES = (torch.bfloat16, torch.float16)  # tensor cores round float32

# op -> backend -> dtypes it has kernels for. An op joins a backend by a line here.
KERNELS: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
    "rms_norm": {"cpp": _FLOATS, "triton": _GPU_FLOATS, "cuda": _GPU_FLOATS},
    "swiglu": {"cpp": _FLOATS, "triton": _GPU_FLOATS, "cuda": _GPU_FLOATS},
    "mlp": {"cpp": _FUSED, "triton": _GPU_FLOATS},
    "token_mixer": {"cpp": _FUSED, "triton": _GPU_FLOATS},
    "attention": {"cpp": _FUSED, "triton": _GPU_FLOATS},
    "latent_step": {"cpp": _FUSED, "triton": _GPU_FLOATS, "cuda": _GPU_HALVES},
    "latent_recursion": {"cpp": _FUSED, "triton": _GPU_FLOATS, "cuda": _GPU_HALVES},
    "stablemax": {"cpp": _FLOATS, "triton": _GPU_FLOATS, "cuda": _GPU_FLOATS},
    "stablemax_cross_entropy": {"cpp": _FLOATS, "triton": _GPU_FLOATS, "cuda": _GPU_FLOATS},
    "adam_atan2_": {"cpp": (torch.float32, torch.float64), "triton": (torch.float32,), "cuda": (torch.float32,)},
    "sign_sgd_rows_": {"cpp": (torch.float32, torch.float64), "triton": (torch.float32,), "cuda": (torch.float32,)},
}

# Of the layers with attention or a mixer: those that know padding and causal order.
MASKED = ("reference", "cpp", "triton")
WIDEST_HEAD = 256  # whose queries, keys and values Triton's kernels hold without spilling

# The fused layers in C++: bfloat16 needs a CPU that multiplies it, and has no gradient.
FORWARD_ONLY = tuple(op for op, backends in KERNELS.items() if backends.get("cpp") is _FUSED)
BFLOAT16_PATH = "avx512bf16"

# What "auto" may take at once: the C++ kernels checked themselves when they were loaded. Kernels of these devices wait
# until an op meets the device for the first time, and are checked then (self_check.py).
AUTO = ("cpp",)
CHECKED = ("cuda",)
SMALL = 2**20  # elements of an op's first argument: up to a batch of 20 samples of 97 tokens and 512 channels


class BackendUnavailable(UserError):
    """A backend was asked for by name and cannot run here; the message says why."""


class Choice(NamedTuple):
    """A row of the table that ``trm-fast info`` prints."""

    op: str
    device: str
    dtype: str
    backend: str
    reasons: dict[str, str]  # backend -> "available", or why it is not taken


def _load_extension() -> str | None:
    """Loads the compiled ops; returns why they are missing, or None."""
    try:
        importlib.import_module("trm_fast._C")
    except ImportError as error:
        built = build_record().get("ops", {})
        return f"the C++ extension did not load: {built.get('reason') or error}"
    return None


def build_record() -> dict[str, Any]:
    """What the build step wrote about itself; empty when nothing was built (a bare checkout)."""
    try:
        record: dict[str, Any] = json.loads((Path(__file__).parents[1] / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return record


EXTENSION_MISSING = _load_extension()
_requested: dict[str, str] = {}  # op -> backend name
_table: dict[tuple[str, str, torch.dtype], str | tuple[str, str]] = {}  # a pair: for small and for large inputs
_spare: dict[tuple[str, str, torch.dtype], str] = {}  # what auto takes where the chosen kernel cannot take a call


def unavailable(op: str, backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` cannot run ``op`` there; None if it can."""
    if backend == "reference":
        return None
    dtypes = KERNELS[op].get(backend)
    if dtypes is None:
        return f"{op} has no {backend} kernel"
    if device != DEVICE[backend]:
        how = " (on a CPU only in Triton's interpreter, for tests: set TRITON_INTERPRET=1)"
        hint = how if backend == "triton" and device == "cpu" else ""
        return f"{backend} kernels run on {DEVICE[backend]}, not on {device}{hint}"
    if dtype not in dtypes:
        return f"the {backend} kernel of {op} has no {_name(dtype)}"
    if backend in ("cpp", "cuda") and EXTENSION_MISSING:
        return EXTENSION_MISSING
    if backend == "cpp" and not differentiable(op, backend, dtype) and cpu_path() != BFLOAT16_PATH:
        return f"bfloat16 in the cpp kernel of {op} needs a CPU with avx512_bf16; the path is {cpu_path()}"
    if backend == "cuda":
        built = build_record().get("cuda", {})
        if not built.get("built"):
            return f"built without CUDA: {built.get('reason', 'no build record')}"
    if backend == "triton" and (missing := _triton_missing()):
        return missing
    if backend == "triton" and INTERPRETED and dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong products of bfloat16"
    if device == "cuda" and not torch.cuda.is_available():
        how = " (on a CPU Triton's kernels run only in its interpreter, for tests: set TRITON_INTERPRET=1)"
        return "torch sees no CUDA device" + (how if backend == "triton" else "")
    if backend == "triton" and device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return f"Triton's kernels need compute capability 8.0, {torch.cuda.get_device_name()} is older"
    return None


@functools.cache
def _triton_missing() -> str | None:
    """Why Triton can launch nothing in this process. It compiles the launcher of each kernel as an extension module."""
    if not importlib.util.find_spec("triton"):
        return "triton is not installed (pip install triton; on Linux)"
    if INTERPRETED or sys.platform != "linux":
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton's kernels need a C compiler for their launchers: install gcc, or set CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton does, for Debian
    header = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    if not (header.exists() or os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")):
        return (
            f"Triton's kernels need Python's headers for their launchers, and there is no {header}: install python3-dev"
        )
    return None


def requested() -> tuple[str, ...]:
    """What each op was asked to take: what is recorded under one request is not what another would do."""
    return tuple(_requested.values())


def _rebuild() -> None:
    """What auto settled stays: an op that is compiled later must find it, though another one was checked meanwhile."""
    for row in [row for row in _table if row not in _spare or _requested[row[0]] != "auto"]:
        del _table[row]
    for row in [row for row in _spare if row not in _table]:
        del _spare[row]
    for op, backends in KERNELS.items():
        requested = _requested[op]
        for backend in AUTO if requested == "auto" else (requested,):
            for dtype in backends.get(backend, ()):
                if requested == "auto" and DEVICE[backend] in CHECKED:
                    continue
                if unavailable(op, backend, DEVICE[backend], dtype) is None:
                    _table[op, DEVICE[backend], dtype] = backend


def differentiable(op: str, backend: str, dtype: torch.dtype) -> bool:
    """Whether that kernel has a gradient."""
    return not (backend == "cpp" and dtype == torch.bfloat16 and op in FORWARD_ONLY)


def select(op: str, tensor: torch.Tensor, *others: torch.Tensor | None) -> str:
    """The backend that ``op`` takes for ``tensor``; raises where one asked for by name cannot run.

    A kernel without a gradient is not taken where ``tensor`` or one of ``others`` wants one.
    """
    chosen = _table.get((op, tensor.device.type, tensor.dtype))
    if chosen is None:
        chosen = _fallback(op, tensor.device.type, tensor.dtype)
    name = chosen if isinstance(chosen, str) else chosen[tensor.numel() > SMALL]
    graded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (tensor, *others))
    if graded and not differentiable(op, name, tensor.dtype):
        return instead(op, name, "its bfloat16 has no gradient")
    return name


def select_masked(op: str, mask: torch.Tensor | None, causal: bool, heads: int, *tensors: torch.Tensor | None) -> str:
    """``select`` for an op with a mask (bool, (B, L) of the first tensor's) or causal order, which not all know, or
    with heads (0: none) that are wider than some can take."""
    first = tensors[0]
    assert first is not None
    if mask is not None and (mask.shape, mask.dtype, mask.device) != (first.shape[:2], torch.bool, first.device):
        raise ValueError(
            f"{op}: the mask must be bool, {tuple(first.shape[:2])}, on {first.device}, "
            f"but is {mask.dtype}, {tuple(mask.shape)}, on {mask.device}"
        )
    chosen = select(op, first, *tensors[1:])
    if chosen == "triton" and heads and (width := first.shape[2] // heads) > WIDEST_HEAD:
        return instead(op, chosen, f"its kernels take heads up to {WIDEST_HEAD} wide, not {width}")
    if chosen in MASKED or (mask is None and not causal):
        return chosen
    return instead(op, chosen, "its kernels know neither padding nor causal order", first, heads)


def has_kernel(op: str, tensor: torch.Tensor, masked: bool = False) -> bool:
    """Whether ``op`` takes a kernel for ``tensor``, one that knows masks if it is ``masked``; for callers that have
    another way than the op's reference."""
    if not _has_kernel(op, tensor):
        return False
    return not masked or select(op, tensor) in MASKED or spare(op, tensor) != "reference"


def _has_kernel(op: str, tensor: torch.Tensor) -> bool:
    chosen = _table.get((op, tensor.device.type, tensor.dtype))
    if torch.is_grad_enabled() and isinstance(chosen, str) and not differentiable(op, chosen, tensor.dtype):
        return False  # in a model the weights want one
    if _requested[op] == "auto":
        return select(op, tensor) != "reference"
    return chosen is not None


def instead(op: str, backend: str, reason: str, tensor: torch.Tensor | None = None, heads: int = 0) -> str:
    """For an op whose kernel cannot take these arguments: the reference, or an error if it was asked for by name. With
    ``tensor``, its first argument, another kernel if there is one."""
    if _requested[op] == backend:
        raise BackendUnavailable(f"backend {backend!r} was asked for {op} and cannot run: {reason}", wrong_use=True)
    return "reference" if tensor is None else spare(op, tensor, heads)


def spare(op: str, tensor: torch.Tensor, heads: int = 0) -> str:
    """What ``auto`` takes where the winner, made for one kind of layer, cannot run: a kernel that knows every kind."""
    name = _spare.get((op, tensor.device.type, tensor.dtype), "reference")
    return "reference" if name == "triton" and heads and tensor.shape[2] // heads > WIDEST_HEAD else name


def _resolve(op: str, device: str, dtype: torch.dtype) -> str | tuple[str, str]:
    """Settles, once, what auto takes on a device whose kernels must be checked."""
    if torch.compiler.is_compiling():  # too late for a check: call the op once before it is compiled
        return "reference"
    from trm_fast.ops import self_check, winners  # they look at this module's table

    verdicts = {
        name: self_check.passed(op, name, dtype, device)
        for name in KERNELS[op]
        if unavailable(op, name, device, dtype) is None
    }
    passed = [name for name, verdict in verdicts.items() if verdict]
    small, large = winners.choose(self_check.device_name(device), op, dtype, passed)
    choice = small if small == large else (small, large)
    if None not in verdicts.values():  # else inside a graph's capture: asked again later
        _table[op, device, dtype] = choice
        _spare[op, device, dtype] = winners.unmeasured(op, dtype, [name for name in passed if name in MASKED])
    return choice


def _fallback(op: str, device: str, dtype: torch.dtype) -> str | tuple[str, str]:
    requested = _requested[op]
    if requested == "auto" and device in CHECKED:
        return _resolve(op, device, dtype)
    if requested not in ("auto", "reference"):
        reason = unavailable(op, requested, device, dtype)
        raise BackendUnavailable(f"backend {requested!r} was asked for {op} and cannot run: {reason}", wrong_use=True)
    return "reference"


def kernels(backend: str) -> Any:
    """The namespace of dispatcher ops that holds a backend's kernels."""
    return torch.ops.trm_fast_triton if backend == "triton" else torch.ops.trm_fast


def mark_written(tensors: Iterable[torch.Tensor]) -> None:
    """Tells autograd of an in-place write, which it does not see in an op without an autograd kernel."""
    if not torch.compiler.is_compiling():  # the compiler knows from the schema
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])


class use_backend:
    """Chooses the backend, for good or for a ``with`` block.

    ``use_backend("cpp")`` takes effect at once; as a context manager it restores the former choice at the end.
    ``ops`` limits it to some ops by name. The choice is the process's, not the thread's, and compiled functions are
    recompiled by their guards.

    Raises:
        BackendUnavailable: no op, or one of ``ops``, can run on it here; or the name is none of ``BACKENDS``.
    """

    def __init__(self, name: str, ops: Iterable[str] | None = None) -> None:
        chosen = tuple(KERNELS) if ops is None else tuple(ops)
        if name not in BACKENDS:
            raise BackendUnavailable(f"no backend {name!r}: choose one of {', '.join(BACKENDS)}", wrong_use=True)
        if unknown := set(chosen) - KERNELS.keys():
            raise BackendUnavailable(f"no op {unknown.pop()!r}: choose of {', '.join(KERNELS)}", wrong_use=True)
        if name in DEVICE:
            reasons = {
                op: unavailable(op, name, DEVICE[name], next(iter(KERNELS[op].get(name, _FLOATS)))) for op in chosen
            }
            missing = [reason for reason in reasons.values() if reason]
            if len(missing) == len(chosen) or (ops is not None and missing):
                raise BackendUnavailable(f"backend {name!r} cannot run: {missing[0]}", wrong_use=True)
        self._previous = dict(_requested)
        _requested.update(dict.fromkeys(chosen, name))
        _rebuild()

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: object) -> None:
        _requested.update(self._previous)
        _rebuild()


def table(
    devices: Iterable[str] = ("cpu", "cuda"), dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16)
) -> list[Choice]:
    """For each op, device type and dtype: the backend taken, and for every backend "available" or why it is not."""
    from trm_fast.ops import self_check

    rows = []
    for op in KERNELS:
        for device in devices:
            for dtype in dtypes:
                reasons = {}
                for backend in BACKENDS[1:]:
                    reason = unavailable(op, backend, device, dtype)
                    if reason is None and device in CHECKED and backend != "reference":
                        reason = self_check.failure(op, backend, dtype, device)
                    reasons[backend] = reason or "available"
                rows.append(Choice(op, device, _name(dtype), _shown(op, device, dtype, reasons), reasons))
    return rows


def _shown(op: str, device: str, dtype: torch.dtype, reasons: dict[str, str]) -> str:
    """What the op takes now, without a check."""
    from trm_fast.ops import self_check, winners

    chosen: str | tuple[str, str] | None = _table.get((op, device, dtype))
    if chosen is None and _requested[op] == "auto" and device in CHECKED:
        passed = [name for name in KERNELS[op] if reasons[name] == "available"]
        chosen = winners.choose(self_check.device_name(device), op, dtype, passed)
    if chosen is None:
        try:
            chosen = _fallback(op, device, dtype)
        except BackendUnavailable:
            return "none"
    return chosen if isinstance(chosen, str) else " / ".join(dict.fromkeys(chosen))


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def cpu_path() -> str:
    """What the C++ kernels run with: "portable", "avx2", "avx512" or "avx512bf16"; "none" where there are none."""
    return "none" if EXTENSION_MISSING else str(importlib.import_module("trm_fast._C").cpu_path())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _start() -> None:
    """A wrong name in the environment fails here; one that cannot run fails where an op is called."""
    name = os.environ.get("TRM_FAST_BACKEND", "auto")
    if name not in BACKENDS:
        raise BackendUnavailable(f"TRM_FAST_BACKEND={name}: choose one of {', '.join(BACKENDS)}", wrong_use=True)
    _requested.update(dict.fromkeys(KERNELS, name))
    _rebuild()


_start()
