"""ARC from the command line: training, evaluation with votes, submissions, solving, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Run

SETTINGS = [
    "task.canvas=4", "task.augmentations=7", "task.colors=false", "model.hidden_size=16",
    "model.prefix_tokens=1", "model.puzzle_embedding_size=16", "training.steps=6", "training.batch_size=8",
    "training.log_every=2", "training.checkpoint_every=3",
]  # fmt: skip


def task(seed: int, tests: int) -> dict[str, Any]:
    grids = np.random.default_rng(seed).integers(0, 10, (2 + tests, 2, 3))
    pairs = [{"input": g.tolist(), "output": g[::-1].tolist()} for g in grids]
    return {"train": pairs[:2], "test": pairs[2:]}


TASKS = {"one": task(1, 2), "two": task(2, 1)}


@pytest.fixture(scope="module")
def arc_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run of six steps on two tiny tasks, and the file of the tasks."""
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    folder = tmp_path_factory.mktemp("arc")
    data = folder / "tasks.json"
    data.write_text(json.dumps(TASKS))
    sections = apply_settings(read_preset("arc-small"), [*SETTINGS, "task.tasks=[one, two]", f"data.source={data}"])
    Trainer(make_config(sections, "test"), folder / "run").train()
    return folder / "run", data


def test_train(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "tasks.json"
    data.write_text(json.dumps(TASKS))
    settings = [part for s in [*SETTINGS, "task.tasks=[one, two]"] for part in ("--set", s)]
    result = run("train", "--preset", "arc-small", "--data", data, "--out", tmp_path / "run", "--json", *settings)
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert summary["steps"] == 6
    assert set(summary["evaluation"]) >= {"pass@1", "pass@2", "pass@100"}
    assert summary["evaluation"]["count"] == 3
    assert [t["name"] for t in json.loads((tmp_path / "run" / "tasks.json").read_text())] == ["one", "two"]
    resumed = run("train", "--resume", tmp_path / "run", "--steps", 8, "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["steps"] == 8


def test_eval_votes_and_writes_a_submission(run: Run, arc_run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = arc_run
    file = tmp_path / "submission.json"
    for model in (folder, folder / "model"):
        result = run("eval", model, "--data", data, "--symmetries", 8, "--submission", file, "--json")
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report["count"] == 3
        assert 0 <= report["pass@1"] <= report["pass@2"] <= report["pass@100"] <= 1
        submission = json.loads(file.read_text())
        assert {name: len(tests) for name, tests in submission.items()} == {"one": 2, "two": 1}
        for tests in submission.values():
            for guesses in tests:
                assert guesses.keys() == {"attempt_1", "attempt_2"}
                assert all(0 <= c <= 9 for grid in guesses.values() for row in grid for c in row)
    too_many = run("eval", folder, "--data", data, "--symmetries", 9)
    assert too_many.code == 2
    assert "9 symmetries: this model has only 8 augmentations" in too_many.err


def test_solve(run: Run, arc_run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = arc_run
    file = tmp_path / "one.json"
    questions = [{"input": pair["input"]} for pair in TASKS["one"]["test"]]
    file.write_text(json.dumps(TASKS["one"] | {"test": questions}))
    result = run("solve", folder, file, "--json", "--symmetries", 4, "--submission", tmp_path / "submission.json")
    assert result.code == 0, result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    guesses = json.loads((tmp_path / "submission.json").read_text())["one"]
    assert len(answers) == len(guesses) == 2
    for answer, guess in zip(answers, guesses, strict=True):
        grid = json.loads(answer["solution"])
        assert guess["attempt_1"] == grid or not grid
        assert answer["valid"] is None
    shown = run("solve", folder, file)
    assert shown.code == 0, shown.err
    assert "one test 1" in shown.out
    assert "prediction" in shown.out


def test_mistakes_are_reported(run: Run, arc_run: tuple[Path, Path], trained: Path, tmp_path: Path) -> None:
    folder, data = arc_run
    new = tmp_path / "new.json"
    new.write_text(json.dumps(task(9, 1)))
    ragged = tmp_path / "ragged.json"
    ragged.write_text(json.dumps({"train": [{"input": [[1], [1, 2]], "output": [[1]]}], "test": []}))
    cases = [
        (("solve", folder, new), 1, "new: the model was not trained on this task"),
        (("solve", folder, ragged), 1, "train[0].input: row 1 has 2 cells, row 0 has 1"),
        (("eval", folder, "--data", tmp_path / "gone.json"), 1, "cannot read"),
        (("train", "--preset", "arc-small", "--out", tmp_path / "run"), 2, "the task arc needs data: --data FILE"),
        (("train", "--preset", "arc-small", "--data", data), 1, "task.tasks: the data has no"),
        (("eval", trained, "--submission", tmp_path / "s.json"), 2, "the task sudoku has no submission format"),
        (("eval", folder, "--data", data, "--sweep", "steps=1,2", "--submission", new), 2, "leave out --sweep"),
    ]
    for arguments, code, message in cases:
        result = run(*arguments)
        assert (result.code, message in result.err) == (code, True), result.err
        assert "Traceback" not in result.err
