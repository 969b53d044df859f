"""Draws a maze and the answer's path in the terminal."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from trm_fast.tasks.maze.cells import CHARACTERS, overlaid
from trm_fast.tasks.maze.pictures import COLORS


class Drawing:
    """The question with the answer's path. A cell in which the answer changes the maze is magenta, or ``x``.

    Each line of text shows two rows of cells in the colors of the pictures. A terminal without colors or Unicode
    shows one character for each cell. ``question`` and ``answer`` are tokens, int (height * width,).
    """

    def __init__(self, question: npt.NDArray[Any], answer: npt.NDArray[Any] | None, shape: tuple[int, int]) -> None:
        self.tokens = overlaid(question, answer).reshape(shape)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None or console.no_color or options.ascii_only:
            for row in self.tokens.tolist():
                yield Text("".join(("x" + CHARACTERS)[token] for token in row))
            return
        rows = self.tokens.tolist()
        for above, below in zip(rows[::2], [*rows[1::2], *([None] * (len(rows) % 2))], strict=True):
            line = Text()
            for col, token in enumerate(above):
                lower = None if below is None else _color(below[col])
                line.append("▀", Style(color=_color(token), bgcolor=lower))
            yield line


def _color(token: int) -> Color:
    return Color.from_rgb(*COLORS[token].tolist())
