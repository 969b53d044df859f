"""Each kernel beside the reference on small inputs, once a device and build, before ``auto`` takes it: the verdict is a
small file under ``$XDG_CACHE_HOME`` (else ``~/.cache``) ``/trm_fast/checked/<device>-<build>/``."""

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
from filelock import FileLock
from torch import Tensor

from trm_fast.ops._core import selection
from trm_fast.ops._core.registry import OPS, Case, Op, Results, dtype_name

PASSED = "passed"
STARTED = "its check did not finish"  # the process was ended meanwhile: another try
UNFINISHED = "its check did not finish twice; trm-fast info --check repeats it"  # it takes the process with it
_verdicts: dict[Path, str] = {}


def disagreement(kernel: Tensor, plain: Tensor, truth: Tensor, factor: float, scale: Tensor) -> str | None:
    """The tolerance policy: a kernel may err ``factor`` times as much as PyTorch does in its dtype, in norm, and half
    as much again at the worst element, which fluctuates more. On top comes rounding at the size of ``scale``: what the
    result is a difference of, where it nearly cancels. None if it keeps to that, else what is wrong."""
    if kernel.shape != truth.shape or kernel.dtype != plain.dtype:
        return f"{tuple(kernel.shape)} {kernel.dtype} instead of {tuple(truth.shape)} {plain.dtype}"
    if not kernel.isfinite().all():
        return "not finite"
    if not truth.numel():
        return None
    # In float64 the truth is itself rounded, so there it is the floor that counts.
    floor = (16 if kernel.dtype == torch.float64 else 2) * torch.finfo(kernel.dtype).eps
    for measure, times in ((torch.linalg.vector_norm, factor), (lambda t: t.abs().max(), 1.5 * factor)):
        allowed = times * measure(plain.double() - truth) + floor * torch.maximum(measure(truth), measure(scale))
        error = measure(kernel.double() - truth)
        if not error <= allowed:
            return f"error {error:.2e}, allowed {allowed:.2e}"
    return None


def check(op: str, backend: str, dtype: torch.dtype, device: str | torch.device) -> str | None:
    """Runs a kernel on the op's cases; None if it is right, else what is wrong."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    sync_mode = torch.cuda.get_sync_debug_mode() if on_gpu else 0
    try:  # whatever the caller is in the middle of: gradients off, mixed precision, a hunt for synchronisations
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
        gpu = torch.cuda.device(device) if on_gpu else contextlib.nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), gpu:
            return _compare(op, backend, dtype, device)
    except torch.OutOfMemoryError:
        raise  # someone else has the memory: that says nothing of the kernel
    except Exception as error:  # a launch that fails says so in many ways; what matters is that the kernel stays off
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        if on_gpu:
            torch.cuda.set_sync_debug_mode(sync_mode)


def _compare(op: str, backend: str, dtype: torch.dtype, device: torch.device) -> str | None:
    stated = OPS[op]
    for case in stated.cases:
        if backend not in case.backends:
            continue
        if dtype in stated.inference_only.get(backend, ()):
            case = case._replace(differentiable=0)
        inputs = case.inputs(dtype, device)
        with selection.use_backend(backend, ops=[op]):
            kernel = case.run(stated.function, inputs)
        if wrong := beside_reference(stated, case, inputs, kernel):
            return wrong
    return None


def beside_reference(op: Op, case: Case, inputs: Sequence[Tensor], kernel: Results) -> str | None:
    """The first of a kernel's results that is wrong, within the op's tolerance."""
    plain = case.run(op.reference, inputs)
    truth = case.run(op.reference, [t.double() if t.is_floating_point() else t for t in inputs])
    for name, want in truth.items():
        gradient = name.startswith("gradient")
        # A gradient is judged beside the gradient that came in, which has the size of one.
        scale = torch.ones_like(want) if gradient else want
        if wrong := disagreement(kernel[name], plain[name], want, op.tolerance[gradient], scale):
            return f"{name}: {wrong}"
    return None


def known(op: str, backend: str, dtype: torch.dtype, device: str) -> str | None:
    """What was found earlier, "passed" or what is wrong; None if the kernel was not checked on this device."""
    file = _file(op, backend, dtype, device)
    with contextlib.suppress(OSError):
        if file not in _verdicts and (found := file.read_text()):
            _verdicts[file] = found
    return _verdicts.get(file)


def verdict(op: str, backend: str, dtype: torch.dtype, device: str, *, again: bool = False) -> str:
    """What was found earlier, else by a check now; one process at a time checks a kernel. ``again``: a check anyway."""
    file = _file(op, backend, dtype, device)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # where no lock can be made, each process checks
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(file.with_suffix(".lock")))
        if (found := known(op, backend, dtype, device)) not in (None, STARTED) and not again:
            return str(found)
        if device == "cuda":
            torch.cuda.synchronize()  # raises where an earlier kernel has taken the device with it
        keep(op, backend, dtype, device, UNFINISHED if found == STARTED else STARTED)
        try:
            wrong = check(op, backend, dtype, device)
        except BaseException:  # interrupted, say: another time
            _verdicts.pop(file)
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            raise
        return keep(op, backend, dtype, device, wrong)


def keep(op: str, backend: str, dtype: torch.dtype, device: str, wrong: str | None) -> str:
    """What ``check`` found becomes the verdict."""
    file = _file(op, backend, dtype, device)
    _verdicts[file] = wrong or PASSED
    with contextlib.suppress(OSError):  # a home that cannot be written to: the next process checks again
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_verdicts[file])
    return _verdicts[file]


def device_name(device: str) -> str:
    if device != "cuda":
        return f"{device} {platform.machine()} {selection.cpu_path()}"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


@functools.cache
def _build_hash() -> str:
    """Of all that decides what the kernels compute: the binary, the Triton sources, torch's and Triton's versions."""
    package = Path(__file__).parents[2]
    triton = [found.version for found in importlib.metadata.distributions(name="triton")]
    digest = hashlib.sha256(f"{torch.__version__} {triton}".encode())
    for path in sorted([*package.glob("_C*.so"), *package.glob("triton_kernels/*.*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder(device: str) -> Path:
    """What was found on this device with this build."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "trm_fast" / "checked"
    return cache / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower())}-{_build_hash()}"


def _file(op: str, backend: str, dtype: torch.dtype, device: str) -> Path:
    return cache_folder(device) / f"{op}-{backend}-{dtype_name(dtype)}.txt"
