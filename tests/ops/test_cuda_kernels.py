"""The CUDA kernels' arithmetic and indices, without a GPU: compiled by the C++ compiler against ``cuda_on_cpu``."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from trm_fast.ops import reference

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
TYPES = {torch.float32: 0, torch.bfloat16: 1}


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> ctypes.CDLL:
    if not (compiler := shutil.which("g++")):
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    sources = [HERE / "cuda_on_cpu" / "entry.cpp"]
    for kernel in (CSRC / "ops" / "cuda").glob("*.cu"):
        # kernel<T><<<grid, block, 0, stream>>>(arguments); is all of CUDA's syntax that a header cannot supply
        text = re.sub(
            r"(\w+<[^;{}]*?>)<<<(.*?), 0, stream>>>\((.*?)\);",
            r"cuda_on_cpu::launch(\2, [&] { \1(\3); });",
            kernel.read_text(),
            flags=re.DOTALL,
        )
        sources.append(folder / f"{kernel.stem}.cpp")
        sources[-1].write_text(text)
    library = folder / "kernels.so"
    command = [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-pthread", f"-I{HERE / 'cuda_on_cpu'}", f"-I{CSRC}"]
    subprocess.run([*command, *map(str, sources), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(function, dtype: torch.dtype, *arguments: torch.Tensor | int | float | None) -> None:
    """Tensors go as pointers, integers as int64, floats as float."""

    def convert(value: torch.Tensor | int | float | None) -> object:
        if value is None or isinstance(value, torch.Tensor):
            return ctypes.c_void_p(None if value is None else value.data_ptr())
        return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)

    assert function(ctypes.c_int(TYPES[dtype]), *map(convert, arguments)) == 0


def nan_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [(3, 97, 1), (2, 300, 1), (2, 97, 50), (1, 5, 33), (1, 1, 1), (0, 4, 3), (2, 8, 64)])
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm(device, random, axis, dtype, with_residual):
    x, residual, dy = (random(*axis, dtype=dtype) for _ in range(3))
    y, dx, rstd = nan_like(x), nan_like(x), torch.full((axis[0], axis[2]), torch.nan)
    call(device.rms_norm_fwd, dtype, x, residual if with_residual else None, y, rstd, *axis, 1e-5)
    call(device.rms_norm_bwd, dtype, dy, y, rstd, dx, *axis)
    leaf = x.double().requires_grad_()
    want = reference.rms_norm(leaf, residual.double() if with_residual else None, dim=1)
    (dwant,) = torch.autograd.grad(want, leaf, dy.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.double(), want.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), dwant, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 2, 130), (1, 2, 1), (5, 2, 77), (0, 2, 4)])
def test_swiglu(device, random, shape, dtype):
    gate_up, dout = random(*shape, dtype=dtype), random(shape[0], 1, shape[2], dtype=dtype)
    out, dgate_up = nan_like(dout), nan_like(gate_up)
    call(device.swiglu_fwd, dtype, gate_up, out, shape[2], dout.numel())
    call(device.swiglu_bwd, dtype, dout, gate_up, dgate_up, shape[2], dout.numel())
    leaf = gate_up.double().requires_grad_()
    want = reference.swiglu(leaf, dim=1)
    (dwant,) = torch.autograd.grad(want, leaf, dout.double())
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double(), want.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dgate_up.double(), dwant, rtol=tolerance, atol=tolerance)
