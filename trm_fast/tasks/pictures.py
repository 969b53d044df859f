"""PNG files as arrays, through matplotlib."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError

Picture = npt.NDArray[np.uint8]
"""Red, green and blue, (height, width, 3)."""

PNG = b"\x89PNG\r\n"
LARGEST_SIDE = 4096
"""Pixels. A file of a few bytes may claim any size, and decoding takes memory for all of it."""


def read_png(path: str | Path) -> Picture:
    """A PNG file; greyscale becomes RGB, and what is transparent white. UserError where it is damaged, too large or no
    PNG."""
    from matplotlib.image import imread

    try:
        with open(path, "rb") as stream:
            head = stream.read(24)
        sides = struct.unpack(">16x2I", head) if head.startswith(PNG) else (0,)
        fits = max(sides) <= LARGEST_SIDE
        pixels = np.asarray(imread(str(path), format="png") if fits else 0)
    except Exception as error:  # the decoder raises OSError, SyntaxError, struct.error...
        raise UserError(f"{path} is not a PNG picture, or a damaged one: {error}") from None
    if not fits:
        raise UserError(f"{path} is {max(sides):,} pixels wide or high: {LARGEST_SIDE:,} are the most that is read")
    scale = 1.0 if pixels.dtype.kind == "f" else 255.0 if pixels.dtype == np.uint8 else 65535.0
    values = pixels.astype(np.float64) / scale
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    if values.shape[2] == 2:
        values = np.concatenate([np.repeat(values[:, :, :1], 3, axis=2), values[:, :, 1:]], axis=2)
    if values.shape[2] == 4:
        values = values[:, :, :3] * values[:, :, 3:] + (1 - values[:, :, 3:])
    return np.rint(values * 255).astype(np.uint8)


def write_png(path: str | Path, picture: Picture) -> None:
    """Writes a picture, uint8 (height, width, 3); UserError where the file can't be written."""
    from matplotlib.image import imsave

    try:
        imsave(str(path), np.ascontiguousarray(picture), format="png")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
