"""No command runs code that the configuration of a model or a run names, unless the user trusts it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run

PUZZLE = "3.......4.3...42"
CODE = """
from pathlib import Path
from trm_fast.tasks.sudoku.task import Sudoku, SudokuConfig

Path("ran").touch()

class Config(SudokuConfig):
    name: str = "strange:Own"

class Own(Sudoku):
    name, Config = "strange:Own", Config
"""
COMMANDS: list[list[Any]] = [
    ["solve", "{}", PUZZLE],
    ["eval", "{}"],
    ["eval", "{}", "--save-defaults"],
    ["call", "{}", "--query", "hello"],
    ["agent", "{}"],
    ["mcp", "{}"],
    ["export", "{}", "--format", "safetensors", "--out", "out"],
    ["train", "--preset", "sudoku-4x4", "--init-from", "{}", "--steps", 1, "--out", "out"],
]


@pytest.fixture
def strangers(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a model, a run, and a module ``strange`` that leaves a file ``ran``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.py").write_text(CODE)
    shutil.copytree(trained / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["task"]["name"] = "strange:Own"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    shutil.copytree(trained, tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("name: sudoku", "name: strange:Own"))
    yield tmp_path
    sys.modules.pop("strange", None)


@pytest.mark.parametrize("folder", ["model", "run"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(map(str, command[:2])))
def test_no_command_runs_the_code_of_a_model(command: list[Any], folder: str, strangers: Path, run: Run) -> None:
    result = run(*[folder if word == "{}" else word for word in command])
    assert result.code in (1, 2), result
    assert "runs the code of the module strange" in " ".join(result.err.split())
    assert "--trust-code" in result.err
    assert not (strangers / "ran").exists()
    assert str(strangers) not in sys.path


@pytest.mark.parametrize(
    "command", [["train", "--resume", "run", "--steps", 9], ["train", "--resume", "run"], ["plot", "run"]]
)
def test_no_command_runs_the_code_of_a_run(command: list[Any], strangers: Path, run: Run) -> None:
    result = run(*command)
    assert result.code == (0 if command[0] == "plot" else 2)
    assert not (strangers / "ran").exists()


@pytest.mark.parametrize("folder", ["model", "run"])
def test_trusted_code_runs(folder: str, strangers: Path, run: Run) -> None:
    path = list(sys.path)
    result = run("solve", folder, PUZZLE, "--trust-code", "--json")
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["solution"]) == 16
    assert (strangers / "ran").exists()
    assert sys.path == path


def test_a_name_that_the_user_typed_is_trusted(strangers: Path, run: Run) -> None:
    (strangers / "own.yaml").write_text(
        "task: {name: 'strange:Own', size: 4, train_count: 30, test_count: 5}\nmodel: {hidden_size: 8}\n"
        "training: {steps: 1, batch_size: 4}\n"
    )
    assert run("train", "--config", "own.yaml", "--out", "mine").code == 0
    assert (strangers / "ran").exists()
