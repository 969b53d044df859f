"""A puzzle drawn for the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from trm_fast.tasks.sudoku.rules import BOXES, breaking

GIVEN, FOUND, WRONG = "bold", "green", "bold red"


class Drawing:
    """A grid with the givens set apart from what was found, and a mark at found cells that break the rules.

    Givens are bold where there is colour, and stand in brackets where there is none.
    ``question`` and ``answer`` are tokens (size * size,); cells without a digit are drawn as ``.``.
    """

    def __init__(self, question: npt.NDArray[Any], answer: npt.NDArray[Any] | None, size: int) -> None:
        self.size = size
        self.given = question > 1
        found = question if answer is None else np.where(self.given, question, answer)
        self.grid = np.where((found >= 2) & (found <= size + 1), found - 1, 0)
        self.answered = answer is not None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.color_system is None or console.no_color
        rows, cols = BOXES[self.size]
        wall, line = ("|", "-") if options.ascii_only else ("│", "─")
        top, middle, bottom = ("+++",) * 3 if options.ascii_only else ("┌┬┐", "├┼┤", "└┴┘")

        def rule(corners: str) -> Text:
            return Text(corners[0] + corners[1].join([line * 3 * cols] * (self.size // cols)) + corners[2])

        wrong = breaking(self.grid, self.size) & ~self.given
        for row in range(self.size):
            if row % rows == 0:
                yield rule(middle if row else top)
            drawn = Text()
            for col in range(self.size):
                if col % cols == 0:
                    drawn.append(wall)
                cell = row * self.size + col
                if self.given[cell]:
                    style, frame = GIVEN, "[{}]" if plain and self.answered else " {} "
                else:
                    style, frame = (WRONG, " {}!") if wrong[cell] else (FOUND, " {} ")
                drawn.append(frame.format(self.grid[cell]) if self.grid[cell] else " . ", style)
            yield drawn.append(wall)
        yield rule(bottom)
