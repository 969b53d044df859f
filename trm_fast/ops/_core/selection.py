"""Keeps the backend that the user requested for each op, and says which backends can run on this machine.

A call only looks up its backend in ``choices``, without reading environment variables or importing anything, so that
``torch.compile`` can trace it.
"""

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
CHECKED = ("cuda",)  # device types on which "auto" uses a kernel only after its check (validation)
SMALL = 2**20  # largest first input that counts as small, in elements: a batch of 21 with 97 tokens and 512 channels
INTERPRETER = " (on a CPU Triton kernels run only in Triton's interpreter, for tests: set TRITON_INTERPRET=1)"


class BackendUnavailable(UserError):
    """A backend was requested by name and cannot run here; the message says why."""


class Choice(NamedTuple):
    """The backends that an op uses for one device and dtype, by the size of its first input."""

    small: str
    large: str
    general: str = "reference"  # for layers that the other two cannot run, such as those with a mask


REFERENCE = Choice("reference", "reference")
choices: dict[tuple[str, str, torch.dtype], Choice] = {}  # by op, device type and dtype
_requested: dict[str, str] = {}  # op -> backend


def requested() -> tuple[str, ...]:
    """The requested backend of every op. A captured step is valid only as long as these stay the same."""
    return tuple(_requested.values())


def requested_for(op: str) -> str:
    """The requested backend of ``op``, or "auto"."""
    if op not in _requested:  # the op was registered after the import of this package
        request({})
    return _requested[op]


def cpu_path() -> str:
    """The instruction set of the C++ kernels: "portable", "avx2", "avx512", "avx512bf16" or "amxbf16" on x86,
    "portable", "neon" or "neonbf16" on Arm; "emulated" if TRM_FAST_CPU names it, or "none" if they are not built."""
    return "none" if EXTENSION_MISSING else str(importlib.import_module("trm_fast._C").cpu_path())


def cpu_has_bfloat16() -> bool:
    """Whether the C++ kernels have matrix products in bfloat16, with their instruction set."""
    return not EXTENSION_MISSING and bool(importlib.import_module("trm_fast._C").has_bfloat16())


def cpu_prefers_bfloat16() -> bool:
    """Whether those are known to be faster than matrix products in float32."""
    return not EXTENSION_MISSING and bool(importlib.import_module("trm_fast._C").prefers_bfloat16())


def unavailable(op: str, backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` cannot run ``op`` for this device type and dtype; None if it can."""
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
    if backend == "cpp" and OPS[op].matrix and dtype == torch.bfloat16 and not cpu_has_bfloat16():
        return f"bfloat16 in the cpp kernel of {op} needs a CPU with products of bfloat16; the path is {cpu_path()}"
    if backend == "cuda" and not (built := build_record().get("cuda", {})).get("built"):
        return f"built without CUDA: {built.get('reason', 'no build record')}"
    if backend == "triton" and (missing := _triton_missing()):
        return missing
    if backend == "triton" and INTERPRETED and dtype == torch.bfloat16:
        return "Triton's interpreter computes products in bfloat16 wrongly"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device" + (INTERPRETER if backend == "triton" else "")
    if backend == "triton" and device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return f"Triton kernels need compute capability 8.0; {torch.cuda.get_device_name()} is older"
    return None


@functools.cache
def _triton_missing() -> str | None:
    """Why Triton cannot launch kernels in this process; None if it can. It compiles a C extension for each kernel."""
    if not importlib.util.find_spec("triton"):
        return "triton is not installed (pip install triton; on Linux)"
    if INTERPRETED or sys.platform != "linux":
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton kernels need a C compiler: install gcc, or set CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton does, for Debian
    header = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    if not (header.exists() or os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")):
        return f"Triton kernels need Python's headers, and there is no {header}: install python3-dev"
    return None


def request(backends: Mapping[str, str]) -> None:
    """Requests a backend for each of these ops, and fills in the ``choices`` that need no check.

    The other ops keep their choices on checked devices, because a function that is compiled later must find them.
    """
    backends = {**dict.fromkeys(OPS, _DEFAULT), **_requested, **backends}
    for row in [row for row in choices if row[1] not in CHECKED or backends[row[0]] != _requested.get(row[0])]:
        del choices[row]
    _requested.update(backends)
    for op, definition in OPS.items():
        backend = "cpp" if _requested[op] == "auto" and "cpu" not in CHECKED else _requested[op]
        for dtype in definition.kernels.get(backend, ()):
            if unavailable(op, backend, DEVICE[backend], dtype) is None:
                choices[op, DEVICE[backend], dtype] = Choice(backend, backend)


class use_backend:
    """Requests a backend for all ops, or for those that ``ops`` names.

    ``use_backend("cpp")`` takes effect immediately. As a context manager, it restores the previous request at the end.
    The request applies to the whole process, not to one thread. Compiled functions recompile when it changes.

    Args:
        name: "auto", "reference", "cpp", "triton" or "cuda".
        ops: names of ops; None for all.

    Raises:
        BackendUnavailable: the backend cannot run any op here, it cannot run one of ``ops``, or ``name`` or a name in
            ``ops`` is unknown.

    Examples:
        >>> from trm_fast import ops
        >>> with ops.use_backend("reference"):
        ...     ops.swiglu(torch.ones(1, 4)).shape
        torch.Size([1, 2])
    """

    def __init__(self, name: str, ops: Iterable[str] | None = None) -> None:
        chosen = tuple(OPS) if ops is None else tuple(ops)
        if name not in BACKENDS:
            raise BackendUnavailable(f"no backend {name!r}: choose one of {', '.join(BACKENDS)}", usage_error=True)
        if unknown := set(chosen) - OPS.keys():
            raise BackendUnavailable(f"no op {unknown.pop()!r}: choose from {', '.join(OPS)}", usage_error=True)
        if name in DEVICE:
            dtypes = {op: OPS[op].kernels.get(name, (torch.float32,))[0] for op in chosen}
            missing = list(filter(None, (unavailable(op, name, DEVICE[name], dtypes[op]) for op in chosen)))
            if len(missing) == len(chosen) or (ops is not None and missing):
                raise BackendUnavailable(f"backend {name!r} cannot run: {missing[0]}", usage_error=True)
        self._previous = dict(_requested)
        request(dict.fromkeys(chosen, name))

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: object) -> None:
        request(self._previous)


# An unknown name in the environment raises here. A backend that cannot run raises at the first call of an op.
_DEFAULT = os.environ.get("TRM_FAST_BACKEND", "auto")
if _DEFAULT not in BACKENDS:
    raise BackendUnavailable(f"TRM_FAST_BACKEND={_DEFAULT}: choose one of {', '.join(BACKENDS)}", usage_error=True)
