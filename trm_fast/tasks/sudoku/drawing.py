"""Draws a sudoku and its answer in the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from trm_fast.tasks.sudoku.rules import BOXES, breaking

GIVEN_STYLE, ANSWER_STYLE, WRONG_STYLE = "bold", "green", "bold red"


class Drawing:
    """A grid in which givens differ from answered cells, and answered cells that break the rules are marked.

    Givens are bold in a terminal with colors and in brackets without. Cells without a digit are drawn as ``.``.
    ``question`` and ``answer`` are tokens, int (size * size,).
    """

    def __init__(self, question: npt.NDArray[Any], answer: npt.NDArray[Any] | None, size: int) -> None:
        self.size = size
        self.is_given = question > 1
        tokens = question if answer is None else np.where(self.is_given, question, answer)
        self.grid = np.where((tokens >= 2) & (tokens <= size + 1), tokens - 1, 0)
        self.answered = answer is not None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.color_system is None or console.no_color
        rows, cols = BOXES[self.size]
        wall, line = ("|", "-") if options.ascii_only else ("│", "─")
        top, middle, bottom = ("+++",) * 3 if options.ascii_only else ("┌┬┐", "├┼┤", "└┴┘")

        def rule(corners: str) -> Text:
            return Text(corners[0] + corners[1].join([line * 3 * cols] * (self.size // cols)) + corners[2])

        wrong = breaking(self.grid, self.size) & ~self.is_given
        for row in range(self.size):
            if row % rows == 0:
                yield rule(middle if row else top)
            drawn = Text()
            for col in range(self.size):
                if col % cols == 0:
                    drawn.append(wall)
                cell = row * self.size + col
                if self.is_given[cell]:
                    style, frame = GIVEN_STYLE, "[{}]" if plain and self.answered else " {} "
                else:
                    style, frame = (WRONG_STYLE, " {}!") if wrong[cell] else (ANSWER_STYLE, " {} ")
                drawn.append(frame.format(self.grid[cell]) if self.grid[cell] else " . ", style)
            yield drawn.append(wall)
        yield rule(bottom)
