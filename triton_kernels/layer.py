"""What all layers of a network share. They write into tensors of the caller, and keep the tensors for the backward in
one buffer, so that a whole recursion is one op of the dispatcher with one opaque ``saved``."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels.keys import fix_cache_keys

Spec = tuple[tuple[int, ...], torch.dtype]
ALIGNMENT = 128  # bytes of a memory transaction
FEWEST = 16  # tokens of the smallest piece, because a product has at least this depth


@triton.jit
def load_state(p_h, p_injection, at, m, INJECT: tl.constexpr):
    """Loads the input of a layer, in its dtype. The injection is added, and the sum rounded as in memory."""
    b_x = tl.load(p_h + at, mask=m, other=0)
    if INJECT:
        b_x = (b_x.to(tl.float32) + tl.load(p_injection + at, mask=m, other=0).to(tl.float32)).to(b_x.dtype)
    return b_x


def pieces(count: int, most: int = 128) -> tuple[int, ...]:
    """Powers of two up to ``most``, largest first, whose sum is ``count``; only ``most`` may repeat.

    Example:
        >>> pieces(112)
        (64, 32, 16)
        >>> pieces(300)
        (128, 128, 32, 8, 4)
    """
    return (most,) * (count // most) + tuple(
        1 << bit for bit in reversed(range(most.bit_length() - 1)) if count >> bit & 1
    )


class Layer(Protocol):
    """A layer ``y = norm(h + part(h))`` on contiguous states h (B, L, D); with an injection, ``h = state +
    injection``."""

    def kept(self, h: Tensor) -> list[Spec]:
        """Shapes and dtypes of the tensors that the forward keeps besides its result y."""

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> None:
        """Writes y; unless ``kept`` is empty, also the tensors for the backward into it."""

    def backward(self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """Returns the gradient of h, which is also that of the injection, and adds to the gradients of the weights."""

    def gradients(self) -> list[Tensor]:
        """The gradients of the weights, summed over all calls of ``backward``, in the weights' dtype."""


def as_bytes(mask: Tensor) -> Tensor:
    """A bool mask (B, L) as uint8, as kernels read it."""
    return mask.contiguous().view(torch.uint8)


def size(specs: Sequence[Spec]) -> int:
    """How many bytes ``split`` needs."""
    return sum(_bytes(spec) for spec in specs)


def split(buffer: Tensor, specs: Sequence[Spec]) -> list[Tensor]:
    """Tensors of these shapes and dtypes, as views of a buffer of bytes."""
    tensors, start = [], 0
    for spec in specs:
        shape, dtype = spec
        tensors.append(buffer[start : start + prod(shape) * dtype.itemsize].view(dtype).view(shape))
        start += _bytes(spec)
    return tensors


def _bytes(spec: Spec) -> int:
    shape, dtype = spec
    return (prod(shape) * dtype.itemsize + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def saved_like(layer: Layer, h: Tensor, keep: bool) -> Tensor:
    """An uninitialised buffer for a single layer: its result, then the tensors that it keeps; empty unless ``keep``."""
    specs = [(tuple(h.shape), h.dtype), *layer.kept(h)]
    return h.new_empty(size(specs) if keep else 0, dtype=torch.uint8)


def single_fwd(layer: Layer, h: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The forward of a single layer as an op: (y, saved)."""
    h = h.contiguous()
    saved = saved_like(layer, h, keep)
    if not keep:
        y = torch.empty_like(h)
        layer.forward(h, None, y, ())
        return y, saved
    y, *kept = split(saved, [(tuple(h.shape), h.dtype), *layer.kept(h)])
    layer.forward(h, None, y, kept)
    return y.clone(), saved


def single_bwd(layer: Layer, dy: Tensor, h: Tensor, saved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of a single layer as an op: dh, and the gradients of both weights."""
    h = h.contiguous()
    y, *kept = split(saved, [(tuple(h.shape), h.dtype), *layer.kept(h)])
    dh = layer.backward(dy.contiguous(), h, None, y, kept)
    d_in, d_out = layer.gradients()
    return dh, d_in, d_out


fix_cache_keys(globals())
