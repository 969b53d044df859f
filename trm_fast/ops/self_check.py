"""Each kernel beside the reference on tiny inputs, once a device and build, before ``auto`` takes it.

The C++ kernels' instruction sets check themselves when the extension loads (csrc/ops/self_check.cpp); what runs on
another device is checked here, when an op first meets that device: milliseconds, kept under ``$XDG_CACHE_HOME`` (else
``~/.cache``) ``/trm_fast/self_check``. A kernel that fails is switched off, with one warning that names it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trm_fast.ops import backend, reference
from trm_fast.ops.check_cases import CASES, Results
from trm_fast.ops.one_process import one_process

UNFINISHED = "its check never finished"


def disagreement(kernel: Tensor, plain: Tensor, truth: Tensor, factor: float, scale: Tensor) -> str | None:
    """The tolerance policy: a kernel may err ``factor`` times as much as PyTorch does in its dtype, in norm and at the
    worst element. None if it keeps to that, else what is wrong.

    The floor is rounding at the size of ``scale``: what the result is a difference of, where it nearly cancels.
    """
    if kernel.shape != truth.shape or kernel.dtype != plain.dtype:
        return f"{tuple(kernel.shape)} {kernel.dtype} instead of {tuple(truth.shape)} {plain.dtype}"
    if not kernel.isfinite().all():
        return "not finite"
    if not truth.numel():
        return None
    # In float64 the truth is itself rounded, so there it is the floor that counts.
    floor = (16 if kernel.dtype == torch.float64 else 2) * torch.finfo(kernel.dtype).eps
    for measure in (torch.linalg.vector_norm, lambda t: t.abs().max()):
        allowed = factor * measure(plain.double() - truth) + floor * torch.maximum(measure(truth), measure(scale))
        error = measure(kernel.double() - truth)
        if not error <= allowed:
            return f"error {error:.2e}, allowed {allowed:.2e}"
    return None


def check(op: str, name: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Runs the kernel that backend ``name`` has for ``op`` on tiny inputs; None if it is right, else what is wrong."""
    sync_mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        with contextlib.ExitStack() as undisturbed:
            # Whatever the caller is in the middle of: gradients off, mixed precision, a hunt for synchronisations.
            undisturbed.enter_context(torch.inference_mode(False))
            undisturbed.enter_context(torch.enable_grad())
            undisturbed.enter_context(torch.autocast(device.type, enabled=False))
            if device.type == "cuda":
                undisturbed.enter_context(torch.cuda.device(device))
                torch.cuda.set_sync_debug_mode("default")
            return _compare(op, name, dtype, device)
    except torch.OutOfMemoryError:
        raise  # someone else has the memory: that says nothing of the kernel
    except Exception as error:  # a launch that fails says so in many ways; what matters is that the kernel stays off
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(sync_mode)


def _compare(op: str, name: str, dtype: torch.dtype, device: torch.device) -> str | None:
    from trm_fast import ops

    for case in CASES[op]:
        if name not in case.backends:
            continue
        if not backend.differentiable(op, name, dtype):
            case = case._replace(differentiable=0)
        inputs = case.inputs(dtype, device)
        with backend.use_backend(name, ops=[op]):
            kernel = case.run(getattr(ops, op), inputs)
        plain = case.run(getattr(reference, op), inputs)
        truth = case.run(getattr(reference, op), [t.double() if t.is_floating_point() else t for t in inputs])
        if wrong := _first_wrong(kernel, plain, truth):
            return wrong
    return None


def _first_wrong(kernel: Results, plain: Results, truth: Results) -> str | None:
    for name, want in truth.items():
        gradient = name.startswith("gradient")
        # A gradient is judged beside the gradient that came in, which has the size of one.
        scale = torch.ones_like(want) if gradient else want
        if wrong := disagreement(kernel[name], plain[name], want, 3 if gradient else 2, scale):
            return f"{name}: {wrong}"
    return None


def passed(op: str, name: str, dtype: torch.dtype, device: str) -> bool | None:
    """Whether a kernel may be taken; checks it where that was not done. None inside a graph's capture, if not known."""
    key, results = _key(op, name, dtype), _results(device)
    if results.get(key, UNFINISHED) == UNFINISHED:
        if device == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        with one_process(_lock(device, key)):  # nobody is in the middle of it
            found = _found(device)
            if key in found:
                results[key] = found[key]
            else:
                _check_and_keep(op, name, dtype, device)
    return results[key] is None


def failure(op: str, name: str, dtype: torch.dtype, device: str) -> str | None:
    """For ``trm-fast info``: what was found earlier, without a new check."""
    key, results = _key(op, name, dtype), _results(device)
    if key not in results:
        return "not checked on this device yet (trm-fast info --check)"
    return results[key] and f"failed its self-check on this device: {results[key]}"


def check_all(device: str) -> Iterator[tuple[str, str, str, str | None]]:
    """Checks every kernel of ``device``, whatever is known of it: op, backend, dtype and what is wrong, or None."""
    for op, backends in backend.KERNELS.items():
        for name, dtypes in backends.items():
            for dtype in dtypes:
                if backend.unavailable(op, name, device, dtype) is None:
                    with one_process(_lock(device, _key(op, name, dtype))):
                        wrong = _check_and_keep(op, name, dtype, device)
                    yield op, name, str(dtype).removeprefix("torch."), wrong


def _check_and_keep(op: str, name: str, dtype: torch.dtype, device: str) -> str | None:
    key, results = _key(op, name, dtype), _results(device)
    _must_be_alive(device)
    results[key] = UNFINISHED  # what a kernel leaves behind that takes the process with it
    _keep(device, key)
    try:
        with _stoppable():
            found = [check(op, name, dtype, card) for card in _cards(device)]
    except BaseException:  # interrupted, say: another time
        del results[key]
        _keep(device, key)
        raise
    results[key] = next(filter(None, found), None)
    _keep(device, key)
    if results[key]:
        warnings.warn(
            f"the {name} kernel of {op} for {dtype} is switched off: it disagrees with the reference on "
            f"{device_name(device)} ({results[key]})",
            stacklevel=2,
        )
    return results[key]


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM (a time limit, while a kernel compiles) is an exception inside, or it would look like a crash."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _must_be_alive(device: str) -> None:
    """Raises what torch does where an earlier kernel has taken the device with it: this one is not to blame."""
    if device == "cuda":
        torch.cuda.synchronize()


def keep_verdicts(device: str, verdicts: Mapping[tuple[str, str, torch.dtype], str | None]) -> None:
    """Takes what other processes found by ``check``: (op, backend, dtype) -> what is wrong, or None."""
    found = {_key(*which): wrong for which, wrong in verdicts.items()}
    _results(device).update(found)
    _keep(device, *found)


def _keep(device: str, *keys: str) -> None:
    """Writes these rows; the file may know more of others than this process."""
    results = _results(device)
    rows = {key: results[key] for key in keys if key in results}
    with one_process(_lock(device, "file")):
        others = {key: wrong for key, wrong in _found(device).items() if key not in keys}
        keep(cache_file(device), others | rows)


def _lock(device: str, what: str) -> Path:
    return cache_folder() / "locks" / f"{cache_file(device).stem}-{what.replace('/', '-')}"


def _key(op: str, name: str, dtype: torch.dtype) -> str:
    return f"{op}/{name}/{str(dtype).removeprefix('torch.')}"


def _cards(device: str) -> list[torch.device]:
    """One device of each name: the current one where it will do, as others may be another process's."""
    if device != "cuda":
        return [torch.device(device)]
    count = torch.cuda.device_count()
    cards = [*reversed(range(count)), torch.cuda.current_device()] if count else []
    by_name = {torch.cuda.get_device_name(i): i for i in cards}
    return [torch.device("cuda", by_name[name]) for name in sorted(by_name)]


def device_name(device: str) -> str:
    if device != "cuda":
        return f"{device} {platform.machine()} {backend.cpu_path()}"
    return " + ".join(torch.cuda.get_device_name(card) for card in _cards(device))


@functools.cache
def build_hash() -> str:
    """Of all that decides what the kernels compute: the binary, the Triton sources, torch's and Triton's versions."""
    package = Path(__file__).parents[1]
    sources = [*package.glob("_C*.so"), *package.glob("triton_kernels/*"), *package.parent.glob("triton_kernels/*")]
    digest = hashlib.sha256(f"{torch.__version__} {backend.version_of('triton')}".encode())
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "trm_fast" / "self_check"


def cache_file(device: str) -> Path:
    """What was found on this device with this build."""
    return cache_folder() / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower())}-{build_hash()}.json"


@functools.cache
def _results(device: str) -> dict[str, str | None]:
    """Key -> what is wrong, or None; one dictionary a process, filled from the file."""
    return _found(device)


def _found(device: str) -> dict[str, str | None]:
    return {k: value for k, value in kept(cache_file(device)).items() if value is None or isinstance(value, str)}


def kept(path: Path) -> dict[str, Any]:
    """An object from the cache; empty where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(path: Path, found: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(found, indent=1))
        temporary.replace(path)
    except OSError:  # a home that cannot be written to: the next process looks again
        return
