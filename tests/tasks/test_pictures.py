"""Pictures: every task draws one, by default an image of its terminal output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.text import Text

from trm_fast.tasks import get_task
from trm_fast.tasks.base import Question, Task
from trm_fast.tasks.pictures import CHARACTER, COLUMNS, Picture, read_png, render_picture, write_png

TEXTS = {
    "copy": "0.5 0.25 -1 0 1",
    "maze": "S..\n.#.\n..G",
    "sequence": "1 2 3 4 5 6 7 8",
    "sudoku": "1..." + "..1." + ".1.." + "4.21",
    "symbols": "abcdabcdabcdabcd",
}
KEYS = {"maze": {"size": 3}, "sudoku": {"size": 4}}


def task_and_question(name: str) -> tuple[Task, Question]:
    kind = get_task(name)
    task = kind(kind.Config(name=name, **KEYS.get(name, {})))
    return task, task.parse(TEXTS[name])


def colors(picture: Picture) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


@pytest.mark.parametrize("name", TEXTS)
def test_every_puzzle_has_a_picture(name: str, tmp_path: Path) -> None:
    task, question = task_and_question(name)
    values = name in ("copy", "sequence")
    plain = task.picture(question)
    shown = task.picture(question, np.zeros((task.seq_len, 1)) if values else question.inputs)
    for picture in (plain, shown):
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert len(colors(picture)) > 1
    write_png(tmp_path / "a.png", shown)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), shown)


def test_picture_shows_the_terminal_output() -> None:
    width, height = CHARACTER
    nothing, black = render_picture(Text(" ")), render_picture(Text("│ │"))
    assert colors(nothing) == {(255, 255, 255)}
    assert black.shape == (2 * height, 5 * width, 3)
    line = black[height // 2 + 2]  # through both strokes, one character apart
    dark = np.flatnonzero(line[:, 0] < 128)
    assert dark.min() // width == 1
    assert dark.max() // width == 3
    red = render_picture(Text("■", "red"))
    assert any(r > 100 > max(g, b) for r, g, b in colors(red))
    assert render_picture(Text("x" * 3 * COLUMNS)).shape[:2] == (4 * height, (COLUMNS + 2) * width)


def test_a_text_is_drawn_as_it_is() -> None:
    """Rich would read square brackets as styles, and words between colons as pictures."""
    for text in ("[red]a[/red] [b", ":smile: 12"):
        np.testing.assert_array_equal(render_picture(text), render_picture(Text(text)))
