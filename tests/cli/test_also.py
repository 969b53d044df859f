"""``--also``: further models for what the first has not solved."""

from __future__ import annotations

import json
from pathlib import Path

PUZZLE = "3.......4.3...42"


def test_solve_and_eval_take_further_models(run, tmp_path: Path) -> None:
    """A model without training solves nothing; the model that ships solves what it leaves."""
    weak = tmp_path / "weak"
    tiny = ["--set", "task.train_count=40", "--set", "task.test_count=8", "--set", "model.hidden_size=16"]
    assert run("train", "--preset", "sudoku-4x4", *tiny, "--steps", 1, "--out", weak, "--device", "cpu").code == 0
    alone = json.loads(run("solve", weak, PUZZLE, "--json").out)
    both = json.loads(run("solve", weak, PUZZLE, "--also", "sudoku-4x4", "--json").out)
    assert (alone["valid"], both["valid"]) == (False, True)
    assert both["steps"] > alone["steps"]
    measured = run("eval", weak, "--also", "sudoku-4x4", "--json")
    report = json.loads(measured.out)
    assert (report["model"], report["also"]) == (f"{weak} at step 1", ["sudoku-4x4"])
    assert report["exact_accuracy"] == 1.0
    assert report["flop"] is None, "the models have different costs"


def test_wrong_use(run) -> None:
    other = run("solve", "sudoku-4x4", PUZZLE, "--also", "maze-small")
    assert (other.code, "--also maze-small: it is a model for maze, not sudoku" in other.err) == (2, True)
    assert run("eval", "sudoku-4x4", "--also", "nowhere", "--limit", 2).code == 1
    swept = run("eval", "sudoku-4x4", "--also", "sudoku-4x4", "--sweep", "steps=1,2")
    assert (swept.code, "--also needs a single measurement: leave out --sweep" in swept.err) == (2, True)
    stored = run("eval", "sudoku-4x4", "--also", "sudoku-4x4", "--save-defaults", "--limit", 2)
    assert (stored.code, "--save-defaults stores options of one model: leave out --also" in stored.err) == (2, True)
