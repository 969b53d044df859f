"""The interface of the fused layers, and the buffer in which they save tensors for the backward.

The caller allocates the outputs, and all tensors for the backward share one buffer of bytes, so that a whole recursion
can be a single op.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels.keys import fix_cache_keys

TensorSpec = tuple[tuple[int, ...], torch.dtype]
ALIGNMENT = 128  # bytes per memory transaction
MIN_PIECE_TOKENS = 16  # the smallest depth of tl.dot; token counts are rounded up to a multiple of it


@triton.jit
def load_state(p_h, p_injection, at, m, INJECT: tl.constexpr):
    """Loads a block of a layer's input.

    With INJECT it adds the injection in float32 and rounds to the input's dtype, as a separate addition would.
    """
    b_x = tl.load(p_h + at, mask=m, other=0)
    if INJECT:
        b_x = (b_x.to(tl.float32) + tl.load(p_injection + at, mask=m, other=0).to(tl.float32)).to(b_x.dtype)
    return b_x


def pieces(count: int, max_piece: int = 128) -> tuple[int, ...]:
    """Splits ``count`` into descending powers of two, at most ``max_piece``. Only ``max_piece`` may repeat.

    Examples:
        >>> pieces(97)
        (64, 32, 1)
        >>> pieces(300)
        (128, 128, 32, 8, 4)
    """
    return (max_piece,) * (count // max_piece) + tuple(
        1 << bit for bit in reversed(range(max_piece.bit_length() - 1)) if count >> bit & 1
    )


class Layer(Protocol):
    """A layer ``y = norm(t + sublayer(t))`` with ``t = h``, or ``t = h + injection`` if there is an injection.

    All states (h, the injection, y and their gradients) are contiguous, with shape (B, L, D) and the same dtype. y must
    not alias h or the injection.
    """

    def saved_specs(self, h: Tensor) -> list[TensorSpec]:
        """Returns shapes and dtypes of the tensors that the forward saves for the backward, besides y."""

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]) -> None:
        """Writes y, and also ``saved_tensors``, which has the tensors of ``saved_specs`` or is empty."""

    def backward(
        self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]
    ) -> Tensor:
        """Returns the gradient of h, which is also that of the injection, and accumulates the weights' gradients."""

    def gradients(self) -> list[Tensor]:
        """Returns the gradients of the weights, summed over all calls of ``backward``, in the weights' dtype."""


def as_bytes(mask: Tensor) -> Tensor:
    """Returns a bool mask (B, L) as contiguous uint8, the form that kernels read; it may share the mask's memory."""
    return mask.contiguous().view(torch.uint8)


def buffer_bytes(specs: Sequence[TensorSpec]) -> int:
    """Returns the size of the buffer that ``split_buffer`` needs, in bytes."""
    return sum(_aligned_bytes(spec) for spec in specs)


def split_buffer(buffer: Tensor, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Returns tensors of these shapes and dtypes as disjoint views of a uint8 buffer, at multiples of ``ALIGNMENT``."""
    tensors, start = [], 0
    for spec in specs:
        shape, dtype = spec
        tensors.append(buffer[start : start + prod(shape) * dtype.itemsize].view(dtype).view(shape))
        start += _aligned_bytes(spec)
    return tensors


def _aligned_bytes(spec: TensorSpec) -> int:
    shape, dtype = spec
    return (prod(shape) * dtype.itemsize + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def new_saved(layer: Layer, h: Tensor, keep: bool) -> Tensor:
    """Allocates the buffer ``saved`` of a single layer: y, then the saved tensors. It is empty unless ``keep``."""
    specs = [(tuple(h.shape), h.dtype), *layer.saved_specs(h)]
    return h.new_empty(buffer_bytes(specs) if keep else 0, dtype=torch.uint8)


def layer_fwd(layer: Layer, h: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Runs the forward of a single layer as an op. Returns (y, saved), which share no memory."""
    h = h.contiguous()
    saved = new_saved(layer, h, keep)
    if not keep:
        y = torch.empty_like(h)
        layer.forward(h, None, y, ())
        return y, saved
    y, *saved_tensors = split_buffer(saved, [(tuple(h.shape), h.dtype), *layer.saved_specs(h)])
    layer.forward(h, None, y, saved_tensors)
    return y.clone(), saved


def layer_bwd(layer: Layer, dy: Tensor, h: Tensor, saved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the backward of a single layer as an op. Returns dh and the gradients of both weights."""
    h = h.contiguous()
    y, *saved_tensors = split_buffer(saved, [(tuple(h.shape), h.dtype), *layer.saved_specs(h)])
    dh = layer.backward(dy.contiguous(), h, None, y, saved_tensors)
    d_in, d_out = layer.gradients()
    return dh, d_in, d_out


fix_cache_keys(globals())
