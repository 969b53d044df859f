"""Block sizes, warps and stages of every kernel, by architecture; ``bench/tune.py`` writes the table (configs.json).

The rows of ``default`` fit an sm_80, too; attention's are by the width of a head, the mixer's by the tokens, rounded up
to 16. Small inputs may have rows of their own: large blocks would leave most of a card idle. No row has been measured
on a card yet: they were chosen from the machine code (registers, bytes from shared memory and from L2).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL = 2**20  # elements of an op's first argument: up to a batch of 20 samples of 97 tokens and 512 channels
TABLE = Path(__file__).with_name("configs.json")


@functools.cache
def table() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """architecture -> kernel -> "16" or "32" bits, or bits and a shape such as "16:512x1536", or bits and the
    size of a block that the kernel holds whole, such as "16:128" -> launch options. A name that ends in ":small" is for
    tensors of up to ``SMALL`` elements."""
    content: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(TABLE.read_text())
    return content


@functools.cache
def architecture(device: torch.device) -> str:
    """ "sm_90" on an H100 or H200; "default" for a device without a row in the table, and where no GPU is."""
    if device.type != "cuda":
        return "default"
    name = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return name if name in table() else "default"


def key(bits: int, *shape: int, small: bool = False) -> str:
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
    """Sets a row for this process: how the tuner tries one."""
    table().setdefault(arch, {}).setdefault(kernel, {})[name] = options
    _lookup.cache_clear()
    architecture.cache_clear()


def lookup(kernel: str, tensor: Tensor, *shape: int, block: int = 0) -> dict[str, Any]:
    """Keyword arguments for a launch: that shape's row where there is one, else the block's, else the dtype's."""
    bits, small = 8 * tensor.element_size(), tensor.numel() <= SMALL
    return _lookup(kernel, architecture(tensor.device), bits, shape, block, small)
