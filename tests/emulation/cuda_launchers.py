"""Calls the CUDA launchers from Python, compiled by the C++ compiler with the headers of ``cuda_on_cpu``."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SANITIZE = "CUDA_ON_CPU_SANITIZE"


def compile_kernels(compiler: str, library: Path) -> Launchers:
    sources = (CSRC / "ops").glob("*/*.cu")
    flags = ["-O1", "-g", "-std=c++17", "-fno-strict-aliasing", "-shared", "-fPIC"]
    flags += [f"-I{HERE / 'cuda_on_cpu'}", f"-I{CSRC}", "-x", "c++"]
    if SANITIZE in os.environ:
        flags.append("-fsanitize=address")
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(library)], check=True)
    return Launchers(library)


class Launchers:
    """The functions of ``csrc/ops/<op>/cuda.h`` by name. A call adds the null stream as the last argument.

    Tensors are passed as pointers, integers as int64, dtypes as ``cuda::Type``, structs of ctypes as they are.
    """

    def __init__(self, library: Path) -> None:
        self.path, self.library = library, ctypes.CDLL(str(library))
        table = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        self.symbols = [line.split()[-1] for line in table.stdout.splitlines()]

    def symbol(self, name: str) -> str:
        return next(s for s in self.symbols if s.startswith(f"_ZN8trm_fast4cuda{len(name)}{name}E"))

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = self.library[self.symbol(name)]

        def launch(*arguments: object) -> None:
            assert function(*map(convert, arguments), ctypes.c_void_p(None)) == 0

        return launch


def convert(value: object) -> object:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    if isinstance(value, torch.dtype):
        return ctypes.c_int(TYPES[value])
    return ctypes.c_int64(value) if isinstance(value, int) else value


class Axis(ctypes.Structure):
    """The struct of the same name in core/kernels.h."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("outer", "size", "inner"))
