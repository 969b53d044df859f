"""Grids side by side, in the terminal and as an image: the input, the target where it is known, the prediction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from trm_fast.tasks.arc.files import Pair
from trm_fast.tasks.base import Array

COLORS = np.array(
    [
        (0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
        (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""What the puzzles' own site shows, by number."""

BACKGROUND, LINE, RIGHT, WRONG = (238, 238, 238), (85, 85, 85), (0, 150, 60), (210, 0, 40)
CELL, GAP, FRAME = 16, 16, 3
Panels = dict[str, Array]


def jsonable(pair: Pair) -> dict[str, Any]:
    known = {} if pair.output is None else {"output": pair.output.tolist()}
    return {"input": pair.input.tolist(), **known}


def panels(text: str, answer: Array | None) -> Panels:
    """What to show of a question, the JSON of its pair, and of the answer to it."""
    pair = json.loads(text)
    shown = {"input": np.array(pair["input"])}
    if "output" in pair:
        shown["target"] = np.array(pair["output"])
    if answer is not None:
        shown["prediction"] = answer
    return shown


class Drawing:
    """Two columns a cell; where the terminal has no colours, the numbers themselves. A wrong prediction says so."""

    def __init__(self, shown: Panels) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.color_system is None or console.no_color
        parts = {_title(name, self.shown): grid for name, grid in self.shown.items()}
        widths = {title: max(len(title), 2 * grid.shape[1]) for title, grid in parts.items()}
        if sum(widths.values()) + 3 * len(widths) > options.max_width:  # too wide: one below the other
            for title, grid in parts.items():
                yield Text(title, "bold")
                yield from (_line(grid, row, plain) for row in range(len(grid)))
            return
        yield Text("   ").join(Text(title.ljust(widths[title]), "bold") for title in parts)
        for row in range(max(len(grid) for grid in parts.values())):
            cells = []
            for title, grid in parts.items():
                line = _line(grid, row, plain)
                line.pad_right(widths[title] - line.cell_len)
                cells.append(line)
            yield Text("   ").join(cells)


def _line(grid: Array, row: int, plain: bool) -> Text:
    line = Text()
    for color in grid[row] if row < len(grid) else ():
        line.append(f"{color} ", "" if plain else "{0} on {0}".format("rgb({},{},{})".format(*COLORS[color])))
    return line


def _title(name: str, shown: Panels) -> str:
    if name != "prediction" or "target" not in shown:
        return name if shown[name].size else f"{name}: no grid"
    return f"{name}: {'right' if np.array_equal(shown['target'], shown[name]) else 'wrong'}"


def picture(shown: Panels) -> npt.NDArray[np.uint8]:
    """RGB (H, W, 3); the frame of a prediction is green where it is the target and red where it is not."""
    drawn = [_panel(grid, _frame(name, shown)) for name, grid in shown.items()]
    height = max(len(panel) for panel in drawn) + 2 * GAP
    width = sum(panel.shape[1] + GAP for panel in drawn) + GAP
    image = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    left = GAP
    for panel in drawn:
        image[GAP : GAP + len(panel), left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return image


def _frame(name: str, shown: Panels) -> tuple[int, int, int]:
    if name != "prediction" or "target" not in shown:
        return LINE
    return RIGHT if np.array_equal(shown["target"], shown[name]) else WRONG


def _panel(grid: Array, frame: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    cells = grid if grid.size else np.zeros((1, 1), dtype=np.uint8)
    height, width = (CELL * side for side in cells.shape)
    panel = np.full((height + 2 * FRAME - 1, width + 2 * FRAME - 1, 3), frame, dtype=np.uint8)
    inside = COLORS[cells].repeat(CELL, axis=0).repeat(CELL, axis=1)
    inside[CELL - 1 :: CELL], inside[:, CELL - 1 :: CELL] = LINE, LINE
    panel[FRAME:-FRAME, FRAME:-FRAME] = inside[:-1, :-1]
    return panel
