"""Makes the keys of kernels in Triton's cache the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton


def fix_cache_keys(module: Mapping[str, Any]) -> None:
    """Computes the keys of all functions of a module, given its ``globals()``, in the order of their definition.

    Triton (3.6) includes the global constants of a helper in the key of its caller only if the helper's key was
    computed before. Without this, a process that uses the kernels in another order gets other keys, and compiles again.
    Every module with kernels ends with this call, so the keys of imported helpers exist first."""
    for value in module.values():
        if isinstance(value, triton.JITFunction):
            value.cache_key  # noqa: B018
