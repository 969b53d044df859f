"""One application of the network to the latent, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trm_fast.ops import backend, reference
from trm_fast.ops import packed as fused
from trm_fast.ops.latent_recursion import Rotary, in_dtype_of_states, recur


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
) -> Tensor:
    """``net(z + injection)``: a ``latent_recursion`` in single state that is nothing but its last application.

    Args:
        z, injection: (B, L, D).
        weights, heads, rotary, eps: as in ``latent_recursion``.
        packed, mask, causal: as in ``latent_recursion``.

    Returns:
        The new z, (B, L, D).

    Raises:
        ValueError: the shapes or dtypes of z and injection differ, or a mask that does not fit them.
    """
    if (injection.shape, injection.dtype) != (z.shape, z.dtype):
        raise ValueError(
            f"latent_step: injection is {tuple(injection.shape)} {injection.dtype}, z is {tuple(z.shape)} {z.dtype}"
        )
    chosen = backend.select_masked("latent_step", mask, causal, heads, z, injection, *weights)
    if chosen == "cuda":
        if not (reason := fused.unfit(z, weights, heads)):
            return fused.latent_step(z, injection, weights, packed, eps)
        chosen = backend.instead("latent_step", chosen, reason, z, heads)
    weights = in_dtype_of_states(weights, z)
    if chosen == "reference":
        return reference.latent_step(
            z, injection, weights, heads=heads, rotary=rotary, eps=eps, mask=mask, causal=causal
        )
    return recur(None, z, injection, weights, 0, heads, rotary, True, 1, eps, chosen, mask, causal)[1]
