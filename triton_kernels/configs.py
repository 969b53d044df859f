"""Block sizes, warps and stages of every kernel, per architecture; ``bench/tune.py`` writes the table (configs.json).

The rows of ``default`` also run on sm_80. Rows of attention may depend on the width of a head, and rows of the token
mixer on the number of tokens, rounded up to a multiple of 16. Small inputs may have rows for themselves, because large
blocks would leave most of a GPU idle. No row has been measured on a GPU yet. They were chosen by properties of the
machine code: its registers, and the bytes that it reads from shared memory and L2.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL = 2**20  # elements of an op's first argument: up to a batch of 20 examples of 97 tokens and 512 channels
TABLE = Path(__file__).with_name("configs.json")


@functools.cache
def table() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Maps architecture -> kernel -> row name -> launch options.

    A row name is the number of bits of the dtype ("16" or "32"), and optionally a shape ("16:512x1536") or the size of
    a block that one program holds whole ("16:128"). Names that end in ":small" are for tensors of up to ``SMALL``
    elements.
    """
    content: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(TABLE.read_text())
    return content


@functools.cache
def architecture(device: torch.device) -> str:
    """The architecture's name in the table, such as "sm_90" on an H100 or H200; "default" for a device without rows."""
    if device.type != "cuda":
        return "default"
    name = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return name if name in table() else "default"


def key(bits: int, *shape: int, small: bool = False) -> str:
    """The name of a row.

    Examples:
        >>> key(16, 512, 1536, small=True)
        '16:512x1536:small'
    """
    size = f":{'x'.join(map(str, shape))}" if shape else ""
    return f"{bits}{size}{':small' if small else ''}"


@functools.cache
def _lookup(kernel: str, arch: str, bits: int, shape: tuple[int, ...], block: int, small: bool) -> dict[str, Any]:
    for rows in (table().get(arch, {}).get(kernel, {}), table()["default"][kernel]):
        for size in (shape, (block,), ()):
            for name in (key(bits, *size, small=True), key(bits, *size))[0 if small else 1 :]:
                if name in rows:
                    return rows[name]
    raise KeyError(f"configs.json has no row for {kernel} with {bits} bits")


def put(arch: str, kernel: str, name: str, options: dict[str, int]) -> None:
    """Sets a row of the table in this process only, for the tuner."""
    table().setdefault(arch, {}).setdefault(kernel, {})[name] = options
    _lookup.cache_clear()
    architecture.cache_clear()


def lookup(kernel: str, tensor: Tensor, *shape: int, block: int = 0) -> dict[str, Any]:
    """Returns the options of a launch: the row of the shape, else that of the block, else that of the dtype.

    If ``tensor`` is small, a ":small" row precedes the plain row of the same name. Any row of the architecture precedes
    all rows of ``default``. ``tensor`` determines device, dtype and number of elements.
    """
    bits, small = 8 * tensor.element_size(), tensor.numel() <= SMALL
    return _lookup(kernel, architecture(tensor.device), bits, shape, block, small)
