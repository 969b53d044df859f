"""The tool for agents: its schema, solutions in the form of the puzzle, and messages for malformed problems."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trm_fast
from trm_fast import ReasoningTool, run_task
from trm_fast.errors import UserError
from trm_fast.inference import Step

PUZZLE, SOLUTION = "3.......4.3...42", "3124241342311342"
ROWS = [[3, 0, 0, 0], [0, 0, 0, 0], [4, 0, 3, 0], [0, 0, 4, 2]]
SOLVED = [[3, 1, 2, 4], [2, 4, 1, 3], [4, 2, 3, 1], [1, 3, 4, 2]]


@pytest.fixture(scope="module")
def tool() -> ReasoningTool:
    return ReasoningTool()


@pytest.mark.parametrize(
    ("puzzle", "solution"),
    [
        (PUZZLE, SOLUTION),
        (ROWS, SOLVED),
        ([PUZZLE[i : i + 4] for i in range(0, 16, 4)], [SOLUTION[i : i + 4] for i in range(0, 16, 4)]),
        (json.dumps(ROWS), json.dumps(SOLVED)),
        (np.array(ROWS), SOLVED),
        ([[np.int64(cell) for cell in row] for row in ROWS], SOLVED),
        (np.array([[cell or np.nan for cell in row] for row in ROWS]), SOLVED),
        (torch.tensor(ROWS), SOLVED),
        (tuple(map(tuple, ROWS)), SOLVED),
        ([[cell or None for cell in row] for row in ROWS], SOLVED),
        ([cell or -1 for row in ROWS for cell in row], [cell for row in SOLVED for cell in row]),
        ({"board": ROWS}, SOLVED),
        ({"board": PUZZLE}, SOLUTION),
    ],
)
def test_the_solution_comes_in_the_form_of_the_puzzle(tool: ReasoningTool, puzzle: Any, solution: Any) -> None:
    answer = tool({"puzzle": puzzle, "type": "sudoku"})
    assert answer.keys() == {"solution", "confidence", "steps", "converged", "valid"}
    assert answer["solution"] == solution
    assert answer["valid"] is True
    assert 0.5 < answer["confidence"] <= 1
    assert json.loads(json.dumps(answer)) == answer


def test_the_puzzle_chooses_the_model(tool: ReasoningTool) -> None:
    assert tool.read(PUZZLE)[0].label == "sudoku-4x4"
    assert tool.read("." * 36)[0].label == "sudoku-6x6"
    assert tool.read("." * 81, "sudoku")[0].label == "sudoku-extreme"


def test_the_file_chooses_the_model(tool: ReasoningTool, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"quizzes;solutions\n{PUZZLE};{SOLUTION}\n{PUZZLE};\n")
    located, questions = tool.read_file(tmp_path / "a.csv")
    assert (located.label, len(questions)) == ("sudoku-4x4", 2)
    with pytest.raises(UserError, match="no model reads this puzzle"):
        tool.read_file(tmp_path / "missing.csv", "sudoku")


def test_the_schema_describes_a_problem(tool: ReasoningTool) -> None:
    schema = json.loads(json.dumps(tool.parameters))
    assert schema["required"] == ["puzzle"]
    assert {"reasoning", "sudoku"} <= set(schema["properties"]["type"]["enum"])
    assert "sudoku" in tool.description
    assert tool.name.isidentifier()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({}, 'key "puzzle"'),
        ([], "must be an object"),
        ({"puzzle": 3}, "text or a list of rows, not int"),
        ({"puzzle": [{1}]}, "a puzzle cannot contain a set"),
        ({"puzzle": [[4, 1, 0, 3, 0], [0, 1, 0], [0, 4, 0, 1], [0] * 4]}, "row 1 has 5 cells, expected 4"),
        ({"puzzle": [[3, 0, 0, 0, 0, 0, 0, 0], [4, 0, 3, 0, 0, 0, 4, 2]]}, "row 1 has 8 cells, expected 4"),
        ({"puzzle": f"{PUZZLE}\n{PUZZLE}"}, "found 2 puzzles, expected one"),
        ({"puzzle": PUZZLE, "typ": "sudoku"}, "unknown key 'typ'"),
        ({"puzzle": PUZZLE, "type": "chess"}, "unknown type of puzzle 'chess'"),
        ({"puzzle": "33" + PUZZLE[2:]}, "sudoku-4x4: the givens contradict each other"),
        ({"puzzle": []}, "no model reads this puzzle"),
    ],
)
def test_bad_problems(tool: ReasoningTool, problem: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tool(problem)


def test_a_callback_sees_every_step(tool: ReasoningTool) -> None:
    steps: list[Step] = []
    answer = ReasoningTool("sudoku-4x4", min_steps=3)({"puzzle": PUZZLE}, steps.append)
    assert [s.step for s in steps] == [1, 2, 3]
    assert (steps[-1].solution, steps[-1].confidence) == (answer["solution"], answer["confidence"])


def test_a_single_model_reads_only_its_own_puzzles(tool: ReasoningTool) -> None:
    with pytest.raises(UserError, match="found 16 cells, expected 36"):
        ReasoningTool("sudoku-6x6")({"puzzle": PUZZLE})
    with pytest.raises(UserError, match="no run or model"):
        ReasoningTool("sudoku-5x5")({"puzzle": PUZZLE})


def test_run_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_task("sudoku", {"puzzle": ROWS})["solution"] == SOLVED
    assert trm_fast.run_task("reasoning", PUZZLE, preset="sudoku-4x4")["solution"] == SOLUTION
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train one with: trm-fast train --preset sudoku"):
        run_task("sudoku", PUZZLE, preset="sudoku")
    assert run_task("sudoku", PUZZLE, architecture="trm", preset="sudoku-4x4")["solution"] == SOLUTION


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "trm", "preset": "small"}, "unknown preset 'small'; "),
        ({"architecture": "hrm"}, "unknown architecture 'hrm'; there is trm alone"),
        ({"model": "sudoku-4x4", "preset": "sudoku-4x4"}, "a model or a preset, not both"),
        ({"rolouts": 2}, "there is no option 'rolouts'; did you mean rollouts?"),
        ({"model_path": "runs/mine"}, "there is no option 'model_path'; did you mean model?"),
        ({"task": "sudoku"}, "there is no option 'task'"),
    ],
)
def test_unknown_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run_task("sudoku", PUZZLE, **options)
    if "model" not in options and "preset" not in options and "architecture" not in options:
        with pytest.raises(UserError, match=re.escape(message)):
            ReasoningTool(**options)
