"""PNG files as arrays, through matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError

Picture = npt.NDArray[np.uint8]
"""Red, green and blue, (height, width, 3)."""

PNG = b"\x89PNG\r\n"


def read_png(path: str | Path) -> Picture:
    """A PNG file; greyscale becomes RGB, and what is transparent white. UserError where it is damaged or no PNG."""
    from matplotlib.image import imread

    try:
        pixels = np.asarray(imread(str(path), format="png"))
    except Exception as error:  # the decoder raises OSError, SyntaxError, struct.error...
        raise UserError(f"{path} is not a PNG picture, or a damaged one: {error}") from None
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
