"""Tests arithmetic and indices of the CUDA kernels without a GPU, compiled with the headers of ``cuda_on_cpu``."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trm_fast.ops import reference

from .cuda_launchers import SANITIZE, TYPES, Axis

pytestmark = pytest.mark.slow  # the kernels, compiled for the CPU and emulated


class Scalar(ctypes.Structure):
    """The struct of the same name in core/scalar.h."""

    _fields_ = (("data", ctypes.c_void_p), ("kind", ctypes.c_int32))

    @classmethod
    def of(cls, tensor: Tensor | None) -> Scalar:
        return cls(None if tensor is None else tensor.data_ptr(), 0)


def nan_like(tensor: Tensor, **changes: object) -> Tensor:
    return torch.full_like(tensor, torch.nan, **changes)


AXES = [(3, 97, 1), (2, 300, 1), (5, 64, 1), (2, 2048, 1), (1, 2056, 1), (2, 97, 50), (1, 5, 33), (1, 1, 1), (0, 4, 3)]
AXES += [(2, 8, 64), (1, 97, 16), (2, 70, 8)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm(device, random, judge, axis, dtype, with_residual):
    x, residual, dy = (random(*axis, dtype=dtype) for _ in range(3))
    y, dx, rstd = nan_like(x), nan_like(x), torch.full((axis[0], axis[2]), torch.nan)
    residual = residual if with_residual else None
    device.rms_norm_fwd(dtype, x, residual, y, rstd, Axis(*axis), ctypes.c_float(1e-5))
    device.rms_norm_bwd(dtype, dy, y, rstd, dx, Axis(*axis))
    judge([y, dx], reference.rms_norm, [x] if residual is None else [x, residual], dy, dim=1)


def test_unaligned_pointers_take_the_narrow_path(device, random):
    x = random(2 * 64 + 1)[1:].view(2, 64)
    y, rstd = nan_like(x), torch.full((2,), torch.nan)
    assert x.data_ptr() % 16
    device.rms_norm_fwd(x.dtype, x, None, y, rstd, Axis(2, 64, 1), ctypes.c_float(1e-5))
    torch.testing.assert_close(y, reference.rms_norm(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 2, 136), (1, 2, 1), (5, 2, 77), (0, 2, 4), (2, 2, 1064)])
def test_swiglu(device, random, judge, shape, dtype):
    gate_up, dout = random(*shape, dtype=dtype), random(shape[0], 1, shape[2], dtype=dtype)
    out, dgate_up = nan_like(dout), nan_like(gate_up)
    device.swiglu_fwd(dtype, gate_up, out, shape[2], dout.numel())
    device.swiglu_bwd(dtype, dout, gate_up, dgate_up, shape[2], dout.numel())
    judge([out, dgate_up], reference.swiglu, [gate_up], dout, dim=1)


def test_swiglu_with_more_elements_than_threads(device, random, judge):
    """Each thread then computes several elements, and must find the gate and the up value of each."""
    gate_up = random(77_300, 2, 7)
    out = nan_like(gate_up[:, :1])
    assert out.numel() > 132 * 16 * 256
    device.swiglu_fwd(torch.float32, gate_up, out, 7, out.numel())
    judge([out], reference.swiglu, [gate_up], torch.ones_like(out), dim=1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [(7, 11, 1), (3, 64, 1), (2, 77, 1), (2, 5, 3), (1, 1, 1), (0, 4, 1)])
def test_stablemax(device, random, judge, axis, dtype):
    logits, dp = 8 * random(*axis, dtype=dtype), random(*axis, dtype=torch.float64)
    p, dlogits = nan_like(dp), nan_like(logits)
    device.stablemax_fwd(dtype, logits, p, Axis(*axis))
    device.stablemax_bwd(dtype, dp, logits, dlogits, Axis(*axis))
    judge([p, dlogits], reference.stablemax, [logits], dp, dim=1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "classes"), [(35, 11), (4, 64), (3, 200), (1, 1), (0, 5)])
def test_stablemax_cross_entropy(device, random, judge, rows, classes, dtype):
    logits, dloss = 8 * random(rows, classes, dtype=dtype), random(rows, dtype=torch.float64)
    labels = torch.arange(rows) * 7 % classes
    labels[::5] = -100
    logits[::5] = torch.nan  # kernels must not read ignored rows
    loss, total, dlogits = nan_like(dloss), nan_like(dloss), nan_like(logits)
    device.stablemax_cross_entropy_fwd(dtype, logits, labels, loss, total, rows, classes, -100)
    device.stablemax_cross_entropy_bwd(dtype, dloss, logits, labels, total, dlogits, rows, classes, -100)
    judge([loss, dlogits], lambda x: reference.stablemax_cross_entropy(x, labels), [logits], dloss)


def test_a_wrong_label_gives_nan(device, random):
    logits, labels = random(3, 5), torch.tensor([0, 5, -1])
    loss, total, dlogits = torch.zeros(3).double(), torch.zeros(3).double(), torch.zeros(3, 5)
    device.stablemax_cross_entropy_fwd(logits.dtype, logits, labels, loss, total, 3, 5, -100)
    device.stablemax_cross_entropy_bwd(logits.dtype, torch.ones(3).double(), logits, labels, total, dlogits,
         3, 5, -100)  # fmt: skip
    assert loss.isnan().tolist() == [False, True, True]
    assert dlogits.isnan().all(1).tolist() == [False, True, True]


class AdamTensor(ctypes.Structure):
    """The struct of the same name in ops/adam_atan2_/cuda.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("p", "g", "m", "v", "ema", "copy")),
        *((name, ctypes.c_int64) for name in ("count", "columns", "stride", "half")),
        *((name, ctypes.c_int32) for name in ("group", "aligned")),
    )


class AdamOptions(ctypes.Structure):
    """The struct of the same name in ops/adam_atan2_/kernels.h."""

    _fields_ = (
        *((name, Scalar) for name in ("lr", "step", "grad_scale")),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "weight_decay", "ema_decay", "eps")),
        ("adamw", ctypes.c_bool),
    )


SHAPES = [(7, 5), (1,), (3, 0), (32, 12), (130, 33)]


@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize(("copy_dtype", "ema", "scale"), [(torch.bfloat16, True, True), (torch.float16, False, False)])
@pytest.mark.parametrize("repeat", [1, 7, 60])  # these fit the small table, the large table, and two launches
def test_adam_atan2_(device, random, variant, copy_dtype, ema, scale, repeat):
    shapes = SHAPES[: 5 if repeat == 1 else 4] * repeat + [(4, 3)]
    params, grads, first, second, average = ([random(*shape) for shape in shapes] for _ in range(5))
    second = [t.abs() for t in second]
    lr, step, grad_scale = (torch.tensor(value) for value in (1e-2, 3.0, 0.5))
    want = [[t.double() for t in tensors] for tensors in (params, first, second, average)]
    reference.adam_atan2_(
        want[0], [g.double() for g in grads], want[1], want[2], lr, step, weight_decay=0.1, ema=want[3],
        ema_decay=0.9, grad_scale=grad_scale if scale else None, variant=variant,
    )  # fmt: skip
    copies = [torch.zeros(t.shape[0] + 1, (t.shape[1] if t.dim() > 1 else 1) + 3, dtype=copy_dtype) for t in params]
    table = (AdamTensor * len(shapes))()
    for i, (p, g, m, v, e, c) in enumerate(zip(params, grads, first, second, average, copies, strict=True)):
        columns = p.shape[1] if p.dim() > 1 else 1
        pointers = [t.data_ptr() for t in (p, g, m, v)]
        table[i] = AdamTensor(
            *pointers, e.data_ptr() if ema else None, c.data_ptr(), p.numel(), columns, c.stride(0), 0, 0, 0
        )
    scalars = map(Scalar.of, (lr, step, grad_scale if scale else None))
    options = AdamOptions(*scalars, 0.9, 0.95, 0.1, 0.9, 1e-8, variant == "adamw")
    device.adam_atan2_(table, len(shapes), ctypes.byref(options), copy_dtype)
    got = [params, first, second, average] if ema else [params, first, second]
    for results, expected in zip(got, want, strict=False):
        for a, b in zip(results, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6)
    for p, c in zip(params, copies, strict=True):
        rows, columns = p.shape[0], p.shape[1] if p.dim() > 1 else 1
        assert torch.equal(c[:rows, :columns], p.view(rows, columns).to(copy_dtype))
        assert not c[rows:].any()
        assert not c[:, columns:].any()


def test_the_copy_interleaves_gate_and_up(device, random):
    p, lr, step = random(20, 3), torch.tensor(0.0), torch.tensor(1.0)
    zeros, copy = torch.zeros(3, 20, 3), torch.zeros(24, 8, dtype=torch.bfloat16)
    pointers = [t.data_ptr() for t in (p, *zeros)]
    table = (AdamTensor * 1)(AdamTensor(*pointers, None, copy.data_ptr(), 60, 3, 8, 10, 4, 0))
    options = AdamOptions(*map(Scalar.of, (lr, step, None)), 0.9, 0.95, 0.0, 0.9, 1e-8, False)
    device.adam_atan2_(table, 1, ctypes.byref(options), copy.dtype)
    copied, empty = p.bfloat16(), torch.zeros(2, 3, dtype=torch.bfloat16)
    want = [copied[0:4], copied[10:14], copied[4:8], copied[14:18], copied[8:10], empty, copied[18:20], empty]
    assert torch.equal(copy[:, :3], torch.cat(want))


@pytest.mark.parametrize("batch", [1, 13, 300])
@pytest.mark.parametrize("columns", [5, 64])
@pytest.mark.parametrize("distinct", [1, 4, 40])
def test_sign_sgd_rows_(device, batch, columns, distinct):
    generator = torch.Generator().manual_seed(batch + columns)
    ids = torch.randint(distinct, (batch,), generator=generator) * 2
    # Sums of quarters are exact in any order. Many are zero, and then the sign must be zero.
    grads = torch.randint(-2, 3, (batch, columns), generator=generator) / 4
    weight, lr = torch.randn(81, columns, generator=generator), torch.tensor(0.01)
    want = weight.double()
    reference.sign_sgd_rows_(want, grads.double(), ids, lr, 0.1)
    device.sign_sgd_rows_(weight, grads, ids, Scalar.of(lr), ctypes.c_double(0.1), *weight.shape, batch)
    torch.testing.assert_close(weight.double(), want, rtol=1e-6, atol=1e-6)


def test_sign_sgd_rows_ignores_ids_outside_the_table(device, random):
    weight, ids, lr = random(3, 5), torch.tensor([-1, 3, 1, 1]), torch.tensor(0.5)
    previous = weight.clone()
    device.sign_sgd_rows_(weight, torch.ones(4, 5), ids, Scalar.of(lr), ctypes.c_double(0.0), 3, 5, 4)
    assert torch.equal(weight[[0, 2]], previous[[0, 2]])
    torch.testing.assert_close(weight[1], previous[1] - 0.5)


def sanitized(code: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    environ |= {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", SANITIZE: "1"}
    return subprocess.run([sys.executable, *code], env=os.environ | environ, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE in os.environ, reason="already runs under AddressSanitizer")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_under_address_sanitizer_with_the_warps_in_reverse():
    files = [__file__, str(Path(__file__).with_name("test_cuda_matrix_kernels.py"))]
    run = sanitized(["-m", "pytest", "-q", "--slow", "-p", "no:cacheprovider", *files], CUDA_ON_CPU_BACKWARDS="1")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "passed" in run.stdout


@pytest.mark.skipif(SANITIZE not in os.environ, reason="the test above runs it under AddressSanitizer")
def test_the_sanitizer_detects_an_access_out_of_bounds(device):
    """Runs in a child process, because the sanitizer ends the process."""
    code = f"import ctypes, torch; x = torch.zeros(63); d = ctypes.CDLL({str(device.path)!r}); "
    code += "p = ctypes.c_void_p(x.data_ptr()); n = ctypes.c_int64(32); "
    code += f"d[{device.symbol('swiglu_fwd')!r}](0, p, p, n, n, None)"
    run = sanitized(["-c", code])
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
