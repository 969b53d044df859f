"""The output says what a run trains on; data that would be ignored are refused; texts are printed unchanged."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from trm_fast import TRM, TRMConfig
from trm_fast.training.folder import read_run_config

from .conftest import Run

TINY = ["--set", "model.hidden_size=16", "--set", "training.batch_size=8", "--steps", 1, "--json"]
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_held_out_puzzles_are_said(run: Run, tmp_path: Path) -> None:
    assert run("data", "sudoku", "--size", 4, "--count", 40, "--out", tmp_path / "p.csv").code == 0
    train = ["train", "--preset", "sudoku-4x4", "--data", tmp_path / "p.csv", *TINY, "--set", "task.train_count=null"]
    held = run(*train, "--out", tmp_path / "a")
    assert held.code == 0, held.err
    assert " of 40 puzzles are held out for testing (data.holdout = 0.1; --holdout 0: none)" in " ".join(
        held.err.split()
    )
    whole = run(*train, "--out", tmp_path / "b", "--holdout", 0)
    assert whole.code == 0, whole.err
    assert "held out" not in whole.err
    assert json.loads(whole.out)["evaluation"] is None
    assert read_run_config(tmp_path / "b").data.holdout == 0
    small = ["--set", "task.train_count=20", "--set", "task.test_count=5"]
    unused = run("train", "--preset", "sudoku-4x4", *TINY, *small, "--holdout", 0.5, "--out", tmp_path / "c")
    assert "--holdout is not used: the data has a test set of its own" in unused.err


def test_a_task_of_ones_own_does_not_ignore_data(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own_task.py", "own_task.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "there.csv").write_text("abcdefgh\n")
    for options in ([], ["--dry-run"], ["--epochs", 1]):
        for data in ("missing.csv", "there.csv"):
            result = run("train", *options, "--config", "own_task.yaml", "--data", data, "--out", tmp_path / "run")
            assert (result.code, "reads no files of examples" in result.err) == (2, True), result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("argument", ["lr=1e-4", "training.learning_rate=1e-4"])
def test_overrides_of_other_trainers_are_explained(run: Run, command: str, argument: str) -> None:
    result = run(command, "--preset", "sudoku-4x4", argument)
    assert (result.code, result.err) == (2, f"error: unexpected '{argument}': --set KEY=VALUE changes a key\n")


def test_a_key_is_found_by_its_initials(run: Run) -> None:
    result = run("train", "--preset", "sudoku-4x4", "--set", "training.lr=1e-4")
    assert "unknown key training.lr; did you mean training.learning_rate?" in result.err


def test_a_saved_model_solves(run: Run, tmp_path: Path) -> None:
    """As in the README: a model made in Python, saved with its task, solves on the command line."""
    torch.manual_seed(0)
    config = TRMConfig.for_sudoku(hidden_size=8, inner_multiple=8, T_cycles=1, n_latent_steps=1)
    TRM(config).save_pretrained(tmp_path / "my-model", task="sudoku")
    result = run("solve", tmp_path / "my-model", "." * 81, "--json", "--max-steps", 1)
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["solution"]) == 81
    TRM(config).save_pretrained(tmp_path / "none")
    result = run("solve", tmp_path / "none", "." * 81)
    assert result.code == 1
    assert 'save_pretrained(folder, task="sudoku") adds one' in result.err


def test_texts_are_printed_as_they_are(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would read square brackets as styles, and words between colons as pictures."""
    config = TRMConfig(
        inputs="values", seq_len=5, hidden_size=8, inner_multiple=8, T_cycles=1, n_latent_steps=1,
        head={"kind": "values", "width": 1, "tolerance": 0.1},
    )  # fmt: skip
    TRM(config).save_pretrained(tmp_path / "copy", task="copy")
    shown = run("solve", tmp_path / "copy", "0.1 0.2 0.3 0.4 0.5", "--max-steps", 1)
    assert shown.code == 0, shown.err
    assert "[" not in shown.out
    assert "copy" in shown.out
    (tmp_path / "shout.py").write_text(
        (EXAMPLES / "own_task.py")
        .read_text()
        .replace('"own_task:', '"shout:')
        .replace('return "".join(chr(96 + token) for token in answer)', 'return "[red]a[/] :smile: {x}"')
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.import_module("shout")
    TRM(TRMConfig(vocab_size=9, seq_len=8, hidden_size=8, inner_multiple=8)).save_pretrained("m", task="shout:Reverse")
    shown = run("solve", "m", "abcdefgh", "--max-steps", 1, "--png", "a.png", "--trust-code")
    assert shown.code == 0, shown.err
    assert "[red]a[/] :smile: {x}" in shown.out
