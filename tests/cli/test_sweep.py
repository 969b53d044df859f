"""``trm-fast sweep``: its table, JSON and files, and its error messages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from trm_fast.cli import console
from trm_fast.training.callbacks.console import Console

TINY: list[Any] = ["--preset", "sudoku-4x4", "--set", "model.hidden_size=16", "--set", "task.train_count=60"]
TINY += ["--set", "task.test_count=20", "--set", "training.batch_size=8", "--steps", 4, "--device", "cpu"]


def test_a_sweep_ends_with_a_table_json_and_a_plot(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 160)
    out = tmp_path / "sweeps" / "lr"
    command = ["sweep", *TINY, "--vary", "training.learning_rate=1e-3,3e-3", "--seeds", "0,1", "--out", out]
    first = run(*command)
    assert first.code == 0, first.err
    for word in ("variant", "mean", "sd", "95 %", "learning_rate=0.001", "sweep.json"):
        assert word in first.out, word
    assert "run 4 of 4: learning_rate=0.003, seed 1" in first.err
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    again = run(*command, "--json", "--metric", "cell_accuracy")
    assert again.code == 0, again.err
    assert "run" not in again.err, "finished runs are kept"
    result = json.loads(again.out)
    assert result == json.loads((out / "sweep.json").read_text()) | {"out": str(out)}
    assert [row["settings"] for row in result["variants"]] == [{"training.learning_rate": lr} for lr in (1e-3, 3e-3)]
    cells = [r["evaluation"]["cell_accuracy"] for r in result["runs"] if r["variant"] == "learning_rate=0.003"]
    assert result["variants"][1]["mean"] == pytest.approx(sum(cells) / 2)
    assert run("eval", out / "runs" / "0-learning_rate=0.001" / "seed-0", "--limit", 2).code == 0


def test_an_interrupted_sweep_continues(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Console, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    command = ["sweep", *TINY, "--variant", "plain:", "--seeds", "7", "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(Console, "on_step", interrupt)
        stopped = run(*command)
    assert stopped.code == 130
    assert "repeat the command to continue" in stopped.err
    assert run(*command).code == 0
    changed = run(*command, "--set", "training.batch_size=16")
    assert changed.code == 2
    assert "holds another sweep: sections changed" in changed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --vary KEY=A,B"),
        (["--optuna", 3], "give --vary KEY=A,B"),
        (["--vary", "training.learning_rate"], "--vary takes section.key=value,value"),
        (["--vary", "training.x=1", "--vary", "training.x=2"], "--vary takes all values of a key at once"),
        (["--vary", "training.x=1..2"], "a range needs --optuna N"),
        (["--vary", "training.x=1,2"], "training.x"),
        (["--vary", "training.seed=1,2"], "--seeds sets training.seed"),
        (["--variant", "plain"], '--variant takes "NAME: KEY=VALUE KEY=VALUE"'),
        (["--optuna", 3, "--vary", "training.x=1,2", "--variant", "plain:"], "leave out --variant"),
        (["--variant", "plain:", "--seeds", "0,0"], "--seeds takes different whole numbers"),
        (["--variant", "plain:", "--minutes", 0], "--minutes must be a number above 0"),
        (["--variant", "plain:", "--max-steps", 64], "go with --eval-data"),
        (["--variant", "plain:", "--eval-data", "none.csv"], "there is no such file"),
        (["--variant", "plain:", "--config", "x.yaml"], "give --preset NAME or --config FILE"),
    ],
)
def test_wrong_use(run, options: list[Any], message: str, tmp_path: Path) -> None:
    result = run("sweep", *TINY, *options, "--out", tmp_path / "out")
    assert result.code == 2, result.err
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_a_wrong_metric_loses_no_run(run, tmp_path: Path) -> None:
    command = ["sweep", *TINY, "--variant", "plain:", "--seeds", "0", "--out", tmp_path / "out"]
    wrong = run(*command, "--metric", "accuracy")
    assert wrong.code == 2
    assert "--metric accuracy: choose from exact_accuracy, cell_accuracy" in wrong.err
    right = run(*command, "--json")
    assert right.code == 0
    assert "run 1" not in right.err
