"""Which backend each op was asked to take, and which can run here. A call looks its kernel up in ``choices``: no
environment reads, no imports, nothing that ``torch.compile`` could not trace."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from trm_fast.errors import UserError
from trm_fast.ops._core.registry import DEVICE, EXTENSION_MISSING, INTERPRETED, OPS, build_record, dtype_name

BACKENDS = ("auto", "reference", "cpp", "triton", "cuda")
CHECKED = ("cuda",)  # kernels on these devices are checked before "auto" takes one (validation)
SMALL = 2**20  # elements of an op's first argument: up to a batch of 20 samples of 97 tokens and 512 channels
BFLOAT16_PATH = "avx512bf16"  # C++ kernels without a gradient are matrix products of bfloat16, which need this CPU
INTERPRETER = " (on a CPU Triton's kernels run only in its interpreter, for tests: set TRITON_INTERPRET=1)"


class BackendUnavailable(UserError):
    """A backend was asked for by name and cannot run here; the message says why."""


class Choice(NamedTuple):
    """The backend for small and for large inputs, and the one for layers that those do not know (masks, say)."""

    small: str
    large: str
    general: str = "reference"
    inference_only: tuple[str, ...] = ()  # those of them without a gradient


REFERENCE = Choice("reference", "reference")
choices: dict[tuple[str, str, torch.dtype], Choice] = {}  # by op, device type and dtype
_requested: dict[str, str] = {}  # op -> backend name


def requested() -> tuple[str, ...]:
    """What each op was asked to take: what is recorded under one request is not what another would do."""
    return tuple(_requested.values())


def requested_for(op: str) -> str:
    """The backend that ``op`` was asked to take, or "auto"."""
    if op not in _requested:  # registered after the package was imported
        request({})
    return _requested[op]


def cpu_path() -> str:
    """What the C++ kernels run with: "portable", "avx2", "avx512" or "avx512bf16"; "none" where there are none."""
    return "none" if EXTENSION_MISSING else str(importlib.import_module("trm_fast._C").cpu_path())


def unavailable(op: str, backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` cannot run ``op`` there; None if it can."""
    if backend == "reference":
        return None
    dtypes = OPS[op].kernels.get(backend)
    if dtypes is None:
        return f"{op} has no {backend} kernel"
    if device != DEVICE[backend]:
        hint = INTERPRETER if backend == "triton" and device == "cpu" else ""
        return f"{backend} kernels run on {DEVICE[backend]}, not on {device}{hint}"
    if dtype not in dtypes:
        return f"the {backend} kernel of {op} has no {dtype_name(dtype)}"
    if backend in ("cpp", "cuda") and EXTENSION_MISSING:
        return EXTENSION_MISSING
    if backend == "cpp" and dtype in OPS[op].inference_only.get("cpp", ()) and cpu_path() != BFLOAT16_PATH:
        return f"bfloat16 in the cpp kernel of {op} needs a CPU with avx512_bf16; the path is {cpu_path()}"
    if backend == "cuda" and not (built := build_record().get("cuda", {})).get("built"):
        return f"built without CUDA: {built.get('reason', 'no build record')}"
    if backend == "triton" and (missing := _triton_missing()):
        return missing
    if backend == "triton" and INTERPRETED and dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong products of bfloat16"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device" + (INTERPRETER if backend == "triton" else "")
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
        return f"Triton's launchers need Python's headers, and there is no {header}: install python3-dev"
    return None


def without_gradient(op: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The backends whose kernel of that dtype has no gradient."""
    return tuple(backend for backend, dtypes in OPS[op].inference_only.items() if dtype in dtypes)


def request(wanted: Mapping[str, str]) -> None:
    """Asks for these backends, and fills ``choices`` with what needs no check. What was found on checked devices stays
    for other ops: one that is compiled later must find it."""
    wanted = {**dict.fromkeys(OPS, _DEFAULT), **_requested, **wanted}
    for row in [row for row in choices if row[1] not in CHECKED or wanted[row[0]] != _requested.get(row[0])]:
        del choices[row]
    _requested.update(wanted)
    for op, stated in OPS.items():
        backend = "cpp" if _requested[op] == "auto" and "cpu" not in CHECKED else _requested[op]
        for dtype in stated.kernels.get(backend, ()):
            if unavailable(op, backend, DEVICE[backend], dtype) is None:
                row = op, DEVICE[backend], dtype
                choices[row] = Choice(backend, backend, inference_only=without_gradient(op, dtype))


class use_backend:
    """Chooses the backend: ``use_backend("cpp")`` takes effect at once; as a context manager it restores the former
    choice at the end. ``ops`` limits it to some ops by name. The choice is the process's, not the thread's, and
    compiled functions are recompiled by their guards.

    Raises:
        BackendUnavailable: no op, or one of ``ops``, can run on it here; or the name is none of ``BACKENDS``.
    """

    def __init__(self, name: str, ops: Iterable[str] | None = None) -> None:
        chosen = tuple(OPS) if ops is None else tuple(ops)
        if name not in BACKENDS:
            raise BackendUnavailable(f"no backend {name!r}: choose one of {', '.join(BACKENDS)}", wrong_use=True)
        if unknown := set(chosen) - OPS.keys():
            raise BackendUnavailable(f"no op {unknown.pop()!r}: choose of {', '.join(OPS)}", wrong_use=True)
        if name in DEVICE:
            dtypes = {op: OPS[op].kernels.get(name, (torch.float32,))[0] for op in chosen}
            missing = list(filter(None, (unavailable(op, name, DEVICE[name], dtypes[op]) for op in chosen)))
            if len(missing) == len(chosen) or (ops is not None and missing):
                raise BackendUnavailable(f"backend {name!r} cannot run: {missing[0]}", wrong_use=True)
        self._previous = dict(_requested)
        request(dict.fromkeys(chosen, name))

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: object) -> None:
        request(self._previous)


# A wrong name in the environment fails here; one that cannot run fails where an op is called.
_DEFAULT = os.environ.get("TRM_FAST_BACKEND", "auto")
if _DEFAULT not in BACKENDS:
    raise BackendUnavailable(f"TRM_FAST_BACKEND={_DEFAULT}: choose one of {', '.join(BACKENDS)}", wrong_use=True)
