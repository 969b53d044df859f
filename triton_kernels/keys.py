"""Makes Triton's cache keys independent of the order in which kernels are first used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton


def fix_cache_keys(module: Mapping[str, Any]) -> None:
    """Computes the cache key of every JIT function in a module, given as its ``globals()``.

    Call this at the end of each kernel module. In Triton 3.6 a caller's key covers a helper's globals only if the
    helper's key was computed first. Otherwise the key would depend on launch order, and kernels would recompile.
    """
    for value in module.values():
        if isinstance(value, triton.JITFunction):
            value.cache_key  # noqa: B018
