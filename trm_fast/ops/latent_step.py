"""The op ``latent_step``: one application of the network to the latent state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.latent_recursion import BACKENDS, latent_recursion_reference, run_recursion
from trm_fast.ops.network import Network, Rotary
from trm_fast.ops.packing import pack_weights


def latent_step(
    z: Tensor,
    injection: Tensor,
    weights: Sequence[Tensor],
    *,
    heads: int = 0,
    rotary: Rotary | None = None,
    eps: float = 1e-5,
    packed: Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    groups: Tensor | None = None,
    group_scale: float = 1.0,
) -> Tensor:
    """``net(z + injection)``, with the layers of ``latent_recursion``.

    Args:
        z, injection: (B, L, D), of one dtype.
        weights, heads, rotary, eps, packed, mask, causal, groups, group_scale: as in ``latent_recursion``.

    Returns:
        The new z, (B, L, D).

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: z and injection differ in shape or dtype, tensors are on different devices, or the mask, the groups
            or the number of weights do not fit.

    Examples:
        >>> state = torch.ones(2, 4, 8)
        >>> weights = [torch.ones(6, 4), torch.ones(4, 3), torch.ones(6, 8), torch.ones(8, 3)]
        >>> latent_step(state, state, weights).shape
        torch.Size([2, 4, 8])
    """
    if (injection.shape, injection.dtype) != (z.shape, z.dtype):
        raise ValueError(
            f"latent_step: injection is {tuple(injection.shape)} {injection.dtype}, z is {tuple(z.shape)} {z.dtype}"
        )
    network = Network(weights, heads, rotary, eps, mask, causal, groups, group_scale)
    return run_recursion("latent_step", None, z, injection, network, 0, packed=packed)[1]


def latent_step_reference(z: Tensor, injection: Tensor, weights: Sequence[Tensor], **options: Any) -> Tensor:
    return latent_recursion_reference(None, z, injection, weights, 0, **options)[1]


def _plain(op: Callable[..., Tensor], z: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    return op(z, x, weights)


def _masked(op: Callable[..., Tensor], z: Tensor, x: Tensor, *rest: Tensor, heads: int) -> Tensor:
    *weights, mask = rest
    return op(z, x, weights, heads=heads, mask=mask, causal=heads > 0)


def _timed(batch: int) -> Case:
    def call(op: Callable[..., Tensor], z: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
        return op(z, x, weights[:4], packed=weights[4:])

    shapes = [(batch, 97, 512), (batch, 97, 512), (1024, 97), (97, 512), (3072, 512), (512, 1536)]
    return Case(shapes, 6, call, lambda inputs: pack_weights(inputs[2:], 97, inputs[0].dtype))


# 19 tokens leave a remainder in every loop; D = 128 is the smallest width that the fused CUDA layers support.
_STATES, _MLP = [(2, 19, 128)] * 2, [(128, 128), (128, 64)]
_MIXER, _ATTENTION = [(64, 19), (19, 32)], [(384, 128), (128, 128)]
register(
    Op(
        latent_step,
        latent_step_reference,
        schemas={},  # it calls the kernels of latent_recursion and fused_step
        cases=[
            Case([*_STATES, *_MIXER, *_MLP], 6, _plain),
            # 97 tokens as published, two layers, and inner widths that need padding.
            Case(
                [(2, 97, 128)] * 2 + [(144, 97), (97, 72), (200, 128), (128, 100)] * 2, 10, _plain, backends=("cuda",)
            ),
            *(
                Case(
                    [*_STATES, *first, *_MLP],
                    6,
                    partial(_masked, heads=heads),
                    lambda _: [torch.arange(19) % 7 < torch.tensor([[7], [4]])],
                    backends=("cpp", "triton"),
                )
                for heads, first in ((0, _MIXER), (2, _ATTENTION))
            ),
        ],
        timed=_timed,
        **BACKENDS,
    )
)
