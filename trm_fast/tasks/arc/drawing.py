"""Draws an ARC pair in the terminal and as an image: the input, the target if it is known, and the prediction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.columns import Columns
from rich.text import Text

from trm_fast.tasks.arc.parsing import Pair
from trm_fast.tasks.base import Array

COLORS = np.array(
    [
        (0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
        (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""RGB of each color, as on the ARC website."""

BACKGROUND, LINE, RIGHT, WRONG = (238, 238, 238), (85, 85, 85), (0, 150, 60), (210, 0, 40)
CELL, GAP, FRAME = 16, 16, 3
Panels = dict[str, Array]


def pair_to_json(pair: Pair) -> dict[str, Any]:
    """A pair as a JSON object, without a key ``output`` if the output is unknown."""
    output = {} if pair.output is None else {"output": pair.output.tolist()}
    return {"input": pair.input.tolist(), **output}


def panels(text: str, answer: Array | None) -> Panels:
    """The grids to draw, by title, for a question (the JSON text of its pair) and an answer (a grid)."""
    pair = json.loads(text)
    shown = {"input": np.array(pair["input"])}
    if "output" in pair:
        shown["target"] = np.array(pair["output"])
    if answer is not None:
        shown["prediction"] = answer
    return shown


def drawing(shown: Panels) -> Columns:
    """The grids side by side. A cell is two characters wide; a terminal without colors shows the numbers."""
    parts = []
    for name, grid in shown.items():
        part = Text(_title(name, shown), "bold")
        for row in grid:
            part.append("\n")
            for color in row:
                part.append(f"{color} ", "not bold {0} on {0}".format("rgb({},{},{})".format(*COLORS[color])))
        parts.append(part)
    return Columns(parts, padding=(0, 3))


def _title(name: str, shown: Panels) -> str:
    right = _is_right(name, shown)
    if right is None:
        return name if shown[name].size else f"{name}: no grid"
    return f"{name}: {'right' if right else 'wrong'}"


def _is_right(name: str, shown: Panels) -> bool | None:
    """Whether a prediction equals its target; None for other grids and if the target is unknown."""
    if name != "prediction" or "target" not in shown:
        return None
    return np.array_equal(shown["target"], shown[name])


def picture(shown: Panels) -> npt.NDArray[np.uint8]:
    """The grids as RGB pixels, uint8 (height, width, 3). A prediction has a green frame if it is right and a red one if
    it is wrong."""
    frames = {None: LINE, True: RIGHT, False: WRONG}
    drawn = [_panel(grid, frames[_is_right(name, shown)]) for name, grid in shown.items()]
    height = max(len(panel) for panel in drawn) + 2 * GAP
    width = sum(panel.shape[1] + GAP for panel in drawn) + GAP
    image = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    left = GAP
    for panel in drawn:
        image[GAP : GAP + len(panel), left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return image


def _panel(grid: Array, frame: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    cells = grid if grid.size else np.zeros((1, 1), dtype=np.uint8)
    height, width = (CELL * side for side in cells.shape)
    panel = np.full((height + 2 * FRAME - 1, width + 2 * FRAME - 1, 3), frame, dtype=np.uint8)
    inside = COLORS[cells].repeat(CELL, axis=0).repeat(CELL, axis=1)
    inside[CELL - 1 :: CELL], inside[:, CELL - 1 :: CELL] = LINE, LINE
    panel[FRAME:-FRAME, FRAME:-FRAME] = inside[:-1, :-1]
    return panel
