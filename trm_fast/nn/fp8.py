"""Linear maps over channels in FP8 (e4m3), for cycles without gradient.

Each tensor has one scale, which the device computes from its largest magnitude. Weights are rounded once per
supervision step. Maps over tokens do not use FP8, because their sizes (81, 97) do not fit the hardware's tiles.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.nn.precision import CAST_AT_USE, Precision

Mode = Literal["fp8", "fp8-emulated"]
E4M3_MAX = 448.0
"""The largest number in e4m3."""


def unsupported_reason(device: torch.device) -> str | None:
    """Why a device cannot compute FP8 products; None if it can."""
    if device.type != "cuda":
        return f"FP8 products need a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} has no FP8 products (they need compute capability 8.9)"
    return None


class Fp8Precision(Precision):
    """Products in FP8 for one supervision step; it keeps the rounded weights. Maps over tokens use the copies of
    ``base``."""

    fuses_channels: ClassVar[bool] = False

    def __init__(self, mode: Mode, base: Precision = CAST_AT_USE) -> None:
        super().__init__(base.copies, base.packed)
        self.mode = mode
        self._quantized: dict[int, tuple[Tensor, Tensor]] = {}

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        n_out, n_in = weight.shape
        if n_in % 16 or n_out % 16:
            return F.linear(x, weight.to(x.dtype))
        if id(weight) not in self._quantized:
            self._quantized[id(weight)] = quantized(weight)
        w, w_scale = self._quantized[id(weight)]
        rows, x_scale = quantized(x.reshape(-1, n_in))
        if self.mode == "fp8-emulated":
            product = F.linear(rows.float(), w.float()) * (x_scale * w_scale)
        else:
            product = torch._scaled_mm(rows, w.t(), scale_a=x_scale, scale_b=w_scale, out_dtype=torch.bfloat16)
        return product.to(x.dtype).view(*x.shape[:-1], n_out)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x / scale`` in e4m3, and ``scale``, float32 ()."""
    scale = x.abs().amax().float().clamp_min(1e-12) / E4M3_MAX
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale
