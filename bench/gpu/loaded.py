"""What processes of ``together`` have from the start, as they fork from one that imported this: the key of Triton's
cache, which each would read off 400 MB. Nothing here meets a device or starts a thread."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    from triton.runtime.cache import triton_key

    triton_key()
