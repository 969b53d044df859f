"""Compiles the kernels of a launcher for a GPU that this machine need not have, and reads the assembler's report."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

MAX_CANDIDATE_SPILL = 16  # bytes per thread that a candidate of the tuner may spill
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


class Compiled(NamedTuple):
    name: str
    options: dict[str, Any]
    shared: int  # bytes
    registers: int  # of a thread
    stack: int  # bytes of a thread: spilled registers
    ptx: str
    serialized: bool  # whether the assembler waits after every wgmma, as it does if a register might change too early


def launches(monkeypatch: pytest.MonkeyPatch, arch: int, run: Callable[[], Any]) -> list[tuple[Any, dict[str, Any]]]:
    """The kernel and its arguments by name for every launch in ``run``, with tensors on the CPU; launches nothing."""
    from triton.runtime.jit import JITFunction

    from trm_fast.triton_kernels import configs

    seen: list[tuple[Any, dict[str, Any]]] = []

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        seen.append((kernel, dict(zip(kernel.arg_names, arguments, strict=False)) | options))

    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", record)
        patch.setattr(configs, "architecture", lambda device: f"sm_{arch}")
        run()
    return seen


def build(arch: int, kernel: Any, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The binary that Triton compiles for a launch, and the arguments that are not constants in it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arguments = dict(arguments)
    options = {name: arguments.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in arguments}
    signature, constants, attributes, values = {}, {}, {}, []
    for parameter in kernel.params:
        value = arguments[parameter.name]
        # Triton turns an argument of value 1 into a constant.
        if parameter.is_constexpr or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        values.append(value)
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            wide = "i64" if abs(value) >= 2**31 else "i32"
            signature[parameter.name] = wide if isinstance(value, int) else "fp32"
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if isinstance(address, int) and address % 16 == 0:
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), values


def compile_for(arch: int, kernel: Any, arguments: dict[str, Any], folder: Path) -> Compiled:
    import triton

    binary, _ = build(arch, kernel, arguments)
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

    def dump(what: str) -> str:
        return subprocess.run([str(tool), what, str(cubin)], capture_output=True, text=True, check=True).stdout

    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", dump("-res-usage")).groups())
    ptx, serialized = binary.asm["ptx"], False
    if products := ptx.count("wgmma.mma_async"):
        code = dump("-sass")
        products_per_wait = code.count("HGMMA") / code.count("WARPGROUP.DEPBAR")
        serialized = products_per_wait < products / ptx.count("wgmma.wait_group")
    return Compiled(kernel.__name__, options, binary.metadata.shared, registers, stack, ptx, serialized)
