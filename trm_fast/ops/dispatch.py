"""Triton kernels as dispatcher ops, ``torch.ops.trm_fast_triton.<name>``: the schemas are known from the start, the
launchers of ``trm_fast.triton_kernels.<op>`` (and Triton with them) are imported when one is first called.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from trm_fast.ops import backend

_LIBRARY = torch.library.Library("trm_fast_triton", "FRAGMENT")


def _no_autocast(device: str) -> AbstractContextManager[None]:
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def triton_kernels(op: str) -> Any:
    """The module with the op's kernels."""
    return importlib.import_module(f"trm_fast.triton_kernels.{op}")


def define_triton(op: str, schema: str, fake: Callable[..., Any]) -> None:
    """Makes ``<name>`` of ``schema`` a dispatcher op on the devices that Triton's kernels run on.

    Args:
        op: the file in ``triton_kernels`` whose launcher has the schema's name.
        schema: ``name(arguments) -> results``.
        fake: what the op returns, without values, for ``torch.compile``.
    """
    name = schema.partition("(")[0]

    @functools.cache
    def launcher() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(triton_kernels(op), name)
        return found

    def launch(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        # Gradients are the caller's (autograd Functions): the products in here record none, and are made in the dtype
        # of their tensors, also under autocast.
        with torch.no_grad(), _no_autocast(device.type):
            if device.type == "cpu" or device.index == torch.cuda.current_device():
                return launcher()(*arguments)
            with torch.cuda.device(device):  # Triton launches on the current device
                return launcher()(*arguments)

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, launch, backend.DEVICE["triton"].upper())
    torch.library.register_fake(f"trm_fast_triton::{name}", fake, lib=_LIBRARY)
