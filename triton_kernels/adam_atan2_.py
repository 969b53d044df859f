"""The optimizer step of a parameter in one pass: moments, weight decay, update, average and low-precision copy.

Each parameter takes one launch. The kernel reads the learning rate and the step number from device memory, so a
replayed CUDA graph uses their current values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys

HALF_PI = tl.constexpr(math.pi / 2)


@triton.jit
def atan2_nonnegative_x(b_y, b_x):
    """Computes atan2(y, x) for x >= 0, by a polynomial in the square of the smaller of y / x and x / y.

    The error is 1 ulp. The result is 0 at (0, 0), and pi / 4 with the sign of y if both are infinite.
    """
    b_rise = tl.abs(b_y)
    m_steep = b_rise > b_x
    b_small, b_large = tl.where(m_steep, b_x, b_rise), tl.where(m_steep, b_rise, b_x)
    b_t = tl.where(b_small == b_large, tl.where(b_large == 0, 0.0, 1.0), tl.math.div_rn(b_small, b_large))
    b_z = b_t * b_t
    b_p = -0.0017873199 * b_z + 0.0108770169
    b_p = b_p * b_z - 0.0310855955
    b_p = b_p * b_z + 0.0578357652
    b_p = b_p * b_z - 0.0839399993
    b_p = b_p * b_z + 0.10947793
    b_p = b_p * b_z - 0.142630503
    b_p = b_p * b_z + 0.199983746
    b_p = b_p * b_z - 0.333332866
    b_angle = b_t + b_t * (b_z * b_p)
    b_angle = tl.where(m_steep, HALF_PI - b_angle, b_angle)
    return tl.where(b_y < 0, -b_angle, b_angle)


@triton.jit
def adam_atan2_kernel(
    p_p,
    p_g,
    p_m,
    p_v,
    p_ema,
    p_copy,
    p_lr,
    p_step,
    p_scale,
    count,
    columns,
    stride,
    half,
    group,
    log_beta1,
    log_beta2,
    one_minus_beta1,
    one_minus_beta2,
    weight_decay,
    one_minus_ema_decay,
    eps,
    EMA: tl.constexpr,
    COPY: tl.constexpr,
    INTERLEAVE: tl.constexpr,
    SCALE: tl.constexpr,
    ADAMW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program updates BLOCK elements of one parameter and of its moments, average and copy."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < count
    lr, step = tl.load(p_lr).to(tl.float64), tl.load(p_step).to(tl.float64)
    step_size = (lr / (1.0 - tl.exp(step * log_beta1))).to(tl.float32)
    rsqrt_bias_correction2 = (1.0 / tl.sqrt(1.0 - tl.exp(step * log_beta2))).to(tl.float32)
    decay_factor = (1.0 - lr * weight_decay).to(tl.float32)
    b_g = tl.load(p_g + i, mask=m, other=0)
    if SCALE:
        b_g = b_g * tl.load(p_scale).to(tl.float32)
    b_m = tl.load(p_m + i, mask=m, other=0)
    b_v = tl.load(p_v + i, mask=m, other=0)
    b_m = b_m + one_minus_beta1 * (b_g - b_m)
    b_v = b_v + one_minus_beta2 * (b_g * b_g - b_v)
    b_denominator = tl.sqrt_rn(b_v) * rsqrt_bias_correction2
    b_update = tl.math.div_rn(b_m, b_denominator + eps) if ADAMW else atan2_nonnegative_x(b_m, b_denominator)
    b_p = tl.load(p_p + i, mask=m, other=0) * decay_factor - step_size * b_update
    tl.store(p_p + i, b_p, mask=m)
    tl.store(p_m + i, b_m, mask=m)
    tl.store(p_v + i, b_v, mask=m)
    if EMA:
        b_ema = tl.load(p_ema + i, mask=m, other=0)
        tl.store(p_ema + i, b_ema + one_minus_ema_decay * (b_p - b_ema), mask=m)
    if COPY:
        row, column = i // columns, i % columns
        if INTERLEAVE:  # `group` rows of the first half alternate with `group` rows of the second
            at = row % half
            row = at // group * 2 * group + row // half * group + at % group
        tl.store(p_copy + row * stride + column, b_p.to(p_copy.dtype.element_ty), mask=m)


def adam_atan2_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    ema: Sequence[Tensor],
    copies: Sequence[Tensor],
    interleave: Sequence[int],
    lr: Tensor,
    step: Tensor,
    grad_scale: Tensor | None,
    beta1: float,
    beta2: float,
    weight_decay: float,
    ema_decay: float,
    eps: float,
    adamw: bool,
) -> None:
    """Updates params, both moments, ``ema`` and ``copies`` in place.

    Params, gradients, moments and ``ema`` are float32 in any layout. A non-contiguous tensor is updated through a
    contiguous copy. ``ema`` and ``copies`` may be empty lists. An entry of ``copies`` has any floating dtype, a
    contiguous last axis and the packed layout of ``trm_fast.ops.packing``, with its row group in ``interleave``. It has
    no elements if the parameter has no copy.
    """
    if not params:
        return
    config = configs.lookup("adam_atan2", params[0])
    for i, p in enumerate(params):
        copy, group = (copies[i], interleave[i]) if copies else (p, 0)
        copied = bool(copies) and copy.numel() > 0
        if not p.numel():
            continue
        written = [p, exp_avgs[i], exp_avg_sqs[i], *([ema[i]] if ema else [])]
        work = [t.contiguous() for t in written]
        columns = p.shape[-1] if copied else 1
        adam_atan2_kernel[(triton.cdiv(p.numel(), config["BLOCK"]),)](
            work[0], grads[i].contiguous(), work[1], work[2], work[-1], copy if copied else work[0], lr, step,
            lr if grad_scale is None else grad_scale, p.numel(), columns, copy.stride(0) if copied else 1,
            max(1, p.numel() // columns // 2), max(1, group),
            math.log(beta1) if beta1 else -math.inf, math.log(beta2) if beta2 else -math.inf, 1 - beta1, 1 - beta2,
            weight_decay, 1 - ema_decay, eps,
            EMA=bool(ema), COPY=copied, INTERLEAVE=group > 0, SCALE=grad_scale is not None, ADAMW=adamw, **config,
        )  # fmt: skip
        for tensor, result in zip(written, work, strict=True):
            if result is not tensor:
                tensor.copy_(result)


fix_cache_keys(globals())
