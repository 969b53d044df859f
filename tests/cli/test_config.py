"""``trm-fast config``: tables, JSON and differences."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_all_defaults(run: Run) -> None:
    result = run("config")
    assert result.code == 0
    assert "task(sudoku)" in result.out
    assert "default" in result.out


def test_a_preset_as_table_and_json(run: Run) -> None:
    assert "hidden_size" in run("config", "sudoku-4x4").out
    keys = json.loads(run("config", "sudoku-4x4", "--json").out)["keys"]
    batch = next(key for key in keys if key["name"] == "training.batch_size")
    assert (batch["value"], batch["default"], batch["set_by"]) == (64, 768, "preset")


def test_a_run_and_a_preset_differ(run: Run, trained: Path) -> None:
    rows = json.loads(run("config", trained, "--diff", "sudoku-4x4", "--json").out)["keys"]
    assert {row["key"]: (row["value"], row["other"]) for row in rows}["training.steps"] == (6, 600)
    assert "have the same values" in run("config", "copy", "--diff", "copy").out


def test_mistakes(run: Run) -> None:
    assert run("config", "--diff", "copy").code == 2
    assert "neither a preset" in run("config", "nothing").err
