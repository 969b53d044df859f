"""Gradients in plain PyTorch, for backward passes that kernels cannot compute.

Kernels compute first derivatives. If a backward must be differentiated again (``create_graph=True``), or computes a
batch of gradients at once (``is_grads_batched=True``), it takes the gradients of the op's reference instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trm_fast.ops._core import dispatch


def plain_backward(*gradients: Tensor | None) -> bool:
    """Whether the current backward, with these incoming gradients, must use PyTorch's operations instead of kernels."""
    if torch.compiler.is_compiling():  # compiled functions have first derivatives only; torch refuses the second
        return False
    if torch.is_grad_enabled() or dispatch.transformed():
        return True
    return any(gradient is not None and is_legacy_batchedtensor(gradient) for gradient in gradients)


def reference_gradients(
    reference: Callable[..., Any], inputs: Sequence[Tensor | None], needed: Sequence[bool], *gradients: Tensor | None
) -> list[Tensor | None]:
    """The gradients of ``reference(*inputs)``. They can be differentiated again if gradients are enabled.

    Args:
        reference: returns a tensor, or a tuple of tensors and None.
        inputs: its inputs, as autograd saved them.
        needed: whether to compute the gradient of each input.
        gradients: the incoming gradient of each result; None: zero.

    Returns:
        For each input its gradient, or None if it is not needed or zero.
    """
    create_graph = torch.is_grad_enabled()
    device = next(t.device.type for t in inputs if t is not None)
    # Of the implementations of attention, only the plain one can be differentiated twice.
    with torch.enable_grad(), torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
        # Each input is a view of its own, because the same tensor may be passed twice.
        views = [t.view_as(t) if t is not None and need else t for t, need in zip(inputs, needed, strict=True)]
        results = reference(*views)
        results = results if isinstance(results, tuple) else (results,)
        pairs = [
            (result, gradient)
            for result, gradient in zip(results, gradients, strict=True)
            if gradient is not None and result is not None and result.requires_grad
        ]
        leaves = {i: view for i, view in enumerate(views) if needed[i] and view is not None}
        computed: dict[int, Tensor] = {}
        if pairs and leaves:
            outputs, incoming = zip(*pairs, strict=True)
            derivatives = torch.autograd.grad(
                outputs, list(leaves.values()), incoming, create_graph=create_graph, allow_unused=True
            )
            computed = dict(zip(leaves, derivatives, strict=True))
    return [computed.get(i) for i in range(len(inputs))]
