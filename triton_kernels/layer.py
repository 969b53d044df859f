"""What a network's layers have in common: they write into tensors that are there, and keep what backward needs in one
buffer, so that a whole recursion is one dispatcher op with one opaque ``saved``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels.keys import settle

Spec = tuple[tuple[int, ...], torch.dtype]
ALIGNMENT = 128  # bytes: a transaction
FEWEST = 16  # tokens of a piece: the least depth of a product


@triton.jit
def load_state(p_h, p_injection, at, m, INJECT: tl.constexpr):
    """A layer's input in its dtype; the injection is added on the way, and rounded as the sum in memory would be."""
    b_x = tl.load(p_h + at, mask=m, other=0)
    if INJECT:
        b_x = (b_x.to(tl.float32) + tl.load(p_injection + at, mask=m, other=0).to(tl.float32)).to(b_x.dtype)
    return b_x


def pieces(count: int, most: int = 128) -> tuple[int, ...]:
    """Powers of two that a number is the sum of, falling; the first may be there several times, as none is larger than
    ``most``."""
    return (most,) * (count // most) + tuple(
        1 << bit for bit in reversed(range(most.bit_length() - 1)) if count >> bit & 1
    )


class Layer(Protocol):
    """``y = norm(h + part(h))`` on states h (B, L, D), contiguous; with an injection ``h = state + injection``."""

    def kept(self, h: Tensor) -> list[Spec]:
        """Shapes and dtypes of what the forward keeps besides its result y."""

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> None:
        """Writes y, and what backward needs into ``kept`` where it is not empty."""

    def backward(self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """The gradient of h, and so of the injection; those of the weights are added up inside the layer."""

    def gradients(self) -> list[Tensor]:
        """Of the weights, summed over every ``backward``, in their dtype."""


def as_bytes(mask: Tensor) -> Tensor:
    """A mask (B, L) of booleans as kernels read it."""
    return mask.contiguous().view(torch.uint8)


def size(specs: Sequence[Spec]) -> int:
    """Bytes that ``split`` needs."""
    return sum(_bytes(spec) for spec in specs)


def split(buffer: Tensor, specs: Sequence[Spec]) -> list[Tensor]:
    """Tensors side by side in a buffer of bytes."""
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
    """The empty buffer of a layer alone: its result first, then what it keeps."""
    specs = [(tuple(h.shape), h.dtype), *layer.kept(h)]
    return h.new_empty(size(specs) if keep else 0, dtype=torch.uint8)


def single_fwd(layer: Layer, h: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """A layer as an op of its own: (y, saved)."""
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
    """(dh, and the gradients of both weights)."""
    h = h.contiguous()
    y, *kept = split(saved, [(tuple(h.shape), h.dtype), *layer.kept(h)])
    dh = layer.backward(dy.contiguous(), h, None, y, kept)
    d_in, d_out = layer.gradients()
    return dh, d_in, d_out


settle(globals())
