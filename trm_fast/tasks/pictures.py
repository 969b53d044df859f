"""Renders terminal output as image arrays, and reads and writes PNG files, with matplotlib."""

from __future__ import annotations

import struct
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len

from trm_fast.errors import UserError
from trm_fast.writing import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]
"""RGB pixels, (height, width, 3)."""

PNG = b"\x89PNG\r\n"
MAX_SIDE = 4096
"""The largest width or height of a PNG file in pixels. A file of a few bytes can declare any size, and decoding
allocates memory for all of it."""

COLUMNS, CHARACTER = 100, (10, 19)
"""The width of the terminal in characters, and the width and height of a character in pixels."""

FONT = "DejaVu Sans Mono"  # comes with matplotlib and has the box-drawing characters
ADVANCE = 1233 / 2048  # the width of its characters at font size 1


def render_picture(drawing: Any) -> Picture:
    """Renders a rich renderable as a terminal would show it, in its colors on a white background.

    Returns:
        RGB pixels, uint8 (height, width, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME as THEME

    console = Console(
        width=COLUMNS, color_system="truecolor", force_terminal=True, file=StringIO(), markup=False, emoji=False,
        highlight=False,
    )  # fmt: skip
    lines = console.render_lines(drawing, pad=False)
    width, height = CHARACTER
    columns = max((sum(part.cell_length for part in line) for line in lines), default=0) + 2
    sides = columns * width, (len(lines) + 1) * height
    figure = Figure(figsize=sides, dpi=1)
    canvas = FigureCanvasAgg(figure)
    for row, line in enumerate(lines, 1):
        column = 1
        for text, style, _ in line:
            color = "black"
            if style and style.color and not style.color.is_default:
                color = style.color.get_truecolor(THEME).hex
            figure.text(
                column * width / sides[0], 1 - (row * height + 5) / sides[1], text.rstrip(), color=color, family=FONT,
                size=72 * width / ADVANCE, weight="bold" if style and style.bold else "normal", va="baseline",
                parse_math=False,
            )  # fmt: skip
            column += cell_len(text)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def read_png(path: str | Path) -> Picture:
    """The RGB pixels of a PNG file, uint8 (height, width, 3). Transparent pixels become white.

    Raises:
        UserError: the file is damaged, too large or not a PNG file.
    """
    from matplotlib.image import imread

    try:
        with open(path, "rb") as stream:
            head = stream.read(24)
        sides = struct.unpack(">16x2I", head) if head.startswith(PNG) else (0,)
        fits = max(sides) <= MAX_SIDE
        pixels = np.asarray(imread(str(path), format="png") if fits else 0)
    except Exception as error:  # the decoder raises OSError, SyntaxError, struct.error and others
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        raise UserError(f"{path} is not a PNG file, or it is damaged: {error}") from None
    if not fits:
        raise UserError(f"{path} is {max(sides):,} pixels wide or high; the largest size is {MAX_SIDE:,}")
    scale = 1.0 if pixels.dtype.kind == "f" else 255.0 if pixels.dtype == np.uint8 else 65535.0
    values = pixels.astype(np.float64) / scale
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] in (2, 4):
        alpha = values[:, :, -1:]
        values = values[:, :, :-1] * alpha + (1 - alpha)
    return np.rint(np.broadcast_to(values, (*values.shape[:2], 3)) * 255).astype(np.uint8)


def write_png(path: str | Path, picture: Picture) -> None:
    """Writes RGB pixels, uint8 (height, width, 3), as a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    write_bytes(path, png_bytes(picture))


def png_bytes(picture: Picture) -> bytes:
    """The PNG file of RGB pixels, uint8 (height, width, 3)."""
    from matplotlib.image import imsave

    content = BytesIO()
    imsave(content, np.ascontiguousarray(picture), format="png")
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that the file's name ends with, such as .svg; without an ending, as PNG.

    Raises:
        UserError: the format is unknown, or the file cannot be written.
    """
    content = BytesIO()
    figure.savefig(content, format=figure_format(path), dpi=120)
    write_bytes(path, content.getvalue())


def figure_format(path: Path) -> str:
    """The format of a figure's file, such as ``svg``, from the ending of its name.

    Raises:
        UserError: the format is unknown.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kind = path.suffix[1:].lower() or "png"
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise UserError(f"cannot write {path}: .{kind} is not a format of pictures; use .png", usage_error=True)
    return kind
