"""Checks kernels: compares each with the reference on small inputs, once per device and build.

Each verdict is stored in a small file in ``$XDG_CACHE_HOME/trm_fast/checked/<device>-<build>/``. The default of
``XDG_CACHE_HOME`` is ``~/.cache``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trm_fast.ops._core import selection
from trm_fast.ops._core.registry import OPS, Case, Op, Results, dtype_name

PASSED = "passed"
STARTED = "its check did not finish"  # written before the check; the next process tries once more
UNFINISHED = "its check did not finish twice; trm-fast info --check repeats it"  # the kernel may crash the process
_verdicts: dict[Path, str] = {}


def disagreement(kernel: Tensor, plain: Tensor, truth: Tensor, factor: float, scale: Tensor) -> str | None:
    """How a kernel's result exceeds the tolerance; None if it does not.

    The norm of its error may be ``factor`` times that of PyTorch in the same dtype. The largest error of an element,
    which fluctuates more, may be 1.5 times ``factor`` times PyTorch's. A rounding error at the magnitude of ``scale``
    is allowed in addition: if a result is the difference of nearly equal terms, ``scale`` is their magnitude.

    Args:
        kernel: the result of the kernel.
        plain: the result of PyTorch in the kernel's dtype.
        truth: the result in float64.
        factor: the tolerance.
        scale: a tensor whose magnitude sets the rounding error, in the shape of ``truth``.
    """
    if kernel.shape != truth.shape or kernel.dtype != plain.dtype:
        return f"{tuple(kernel.shape)} {kernel.dtype} instead of {tuple(truth.shape)} {plain.dtype}"
    if not kernel.isfinite().all():
        return "not finite"
    if not truth.numel():
        return None
    # In float64, the truth is rounded, too, so that only the floor matters.
    floor = (16 if kernel.dtype == torch.float64 else 2) * torch.finfo(kernel.dtype).eps
    for measure, times in ((torch.linalg.vector_norm, factor), (lambda t: t.abs().max(), 1.5 * factor)):
        allowed = times * measure(plain.double() - truth) + floor * torch.maximum(measure(truth), measure(scale))
        error = measure(kernel.double() - truth)
        if not error <= allowed:
            return f"error {error:.2e}, allowed {allowed:.2e}"
    return None


def check(op: str, backend: str, dtype: torch.dtype, device: str | torch.device) -> str | None:
    """Compares a kernel with the reference on the op's check cases. Returns what is wrong, or None."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    sync_mode = torch.cuda.get_sync_debug_mode() if on_gpu else 0
    try:  # the caller may have disabled gradients, enabled autocast or set the synchronization debug mode
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
        gpu = torch.cuda.device(device) if on_gpu else contextlib.nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), gpu:
            return _compare(op, backend, dtype, device)
    except torch.OutOfMemoryError:
        raise  # another program may hold the memory; this says nothing about the kernel
    except Exception as error:  # failed launches raise exceptions of many types
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        if on_gpu:
            torch.cuda.set_sync_debug_mode(sync_mode)


def _compare(op: str, backend: str, dtype: torch.dtype, device: torch.device) -> str | None:
    definition = OPS[op]
    for case in definition.cases:
        if backend not in case.backends:
            continue
        inputs = case.inputs(dtype, device)
        with selection.use_backend(backend, ops=[op]):
            kernel = case.run(definition.function, inputs)
        if problem := compare_with_reference(definition, case, inputs, kernel):
            return problem
    return None


def compare_with_reference(op: Op, case: Case, inputs: Sequence[Tensor], kernel: Results) -> str | None:
    """How the first result that exceeds the op's tolerance does so; None if all results are within it."""
    plain = case.run(op.reference, inputs)
    truth = case.run(op.reference, [t.double() if t.is_floating_point() else t for t in inputs])
    for name, expected in truth.items():
        gradient = name.startswith("gradient")
        # The rounding error of a gradient depends on the incoming gradient, whose magnitude is 1.
        scale = torch.ones_like(expected) if gradient else expected
        if problem := disagreement(kernel[name], plain[name], expected, op.tolerance[gradient], scale):
            return f"{name}: {problem}"
    return None


def known_verdict(op: str, backend: str, dtype: torch.dtype, device: str) -> str | None:
    """The verdict of an earlier check: "passed", or what is wrong. None if there was no check on this device."""
    file = _file(op, backend, dtype, device)
    with contextlib.suppress(OSError):
        if file not in _verdicts and (content := file.read_text()):
            _verdicts[file] = content
    return _verdicts.get(file)


def verdict(op: str, backend: str, dtype: torch.dtype, device: str, *, again: bool = False) -> str:
    """The verdict of an earlier check, or of a new one. Only one process at a time checks a kernel.

    Args:
        again: check even if there is a verdict.

    Returns:
        "passed", or what is wrong.
    """
    file = _file(op, backend, dtype, device)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # without locks, every process checks
            file.parent.mkdir(parents=True, exist_ok=True)
            from filelock import FileLock

            stack.enter_context(FileLock(file.with_suffix(".lock")))
        if (earlier := known_verdict(op, backend, dtype, device)) not in (None, STARTED) and not again:
            return str(earlier)
        if device == "cuda":
            torch.cuda.synchronize()  # raises here if an earlier kernel failed, so that this one is not blamed
        store(op, backend, dtype, device, UNFINISHED if earlier == STARTED else STARTED)
        try:
            problem = check(op, backend, dtype, device)
        except BaseException:  # interrupted: the next call checks again
            _verdicts.pop(file)
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            raise
        return store(op, backend, dtype, device, problem)


def store(op: str, backend: str, dtype: torch.dtype, device: str, problem: str | None) -> str:
    """Stores the result of ``check`` as the verdict, and returns the verdict."""
    file = _file(op, backend, dtype, device)
    _verdicts[file] = problem or PASSED
    with contextlib.suppress(OSError):  # if the file cannot be written, the next process checks again
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_verdicts[file])
    return _verdicts[file]


def device_name(device: str) -> str:
    """The name under which verdicts and timings are stored: the GPU's, or CPU architecture and instruction set."""
    if device != "cuda":
        return f"{device} {platform.machine()} {selection.cpu_path()}"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


@functools.cache
def _build_hash() -> str:
    """A hash of all that determines the kernels: the binary, the Triton sources, and torch's and Triton's versions."""
    package = Path(__file__).parents[2]
    triton = [distribution.version for distribution in importlib.metadata.distributions(name="triton")]
    digest = hashlib.sha256(f"{torch.__version__} {triton}".encode())
    for path in sorted([*package.glob("_C*.so"), *package.glob("triton_kernels/*.*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder(device: str) -> Path:
    """The folder of the verdicts and timings for this device and build."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "trm_fast" / "checked"
    return cache / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower())}-{_build_hash()}"


def _file(op: str, backend: str, dtype: torch.dtype, device: str) -> Path:
    return cache_folder(device) / f"{op}-{backend}-{dtype_name(dtype)}.txt"
