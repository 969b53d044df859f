"""Kernels' names in Triton's cache, the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton


def settle(module: Mapping[str, Any]) -> None:
    """Asks for the keys of a module's functions, given its ``globals()``, in the order in which they are defined.

    Triton (3.6) takes a helper's global constants into its caller's key only where the helper's own key was asked for
    before. So a kernel would have another key, and be compiled again, in a process that meets the kernels in another
    order. Every module that defines some ends with this: what it calls is then settled first.
    """
    for value in module.values():
        if isinstance(value, triton.JITFunction):
            value.cache_key  # noqa: B018
