"""Mazes from the command line: generation, training, solving from text, JSON and PNG, and drawing."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from trm_fast.tasks.pictures import read_png, write_png

SMALL = ["task.size=5", "task.train_count=100", "task.test_count=20", "model.hidden_size=16", "training.batch_size=8"]
SMALL += ["training.checkpoint_every=20", "training.log_every=5"]
MAZE = ["S#...", ".#.#.", ".#.#.", ".#.#.", "...#G"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    out = tmp_path_factory.mktemp("runs") / "maze"
    settings = [*SMALL, "training.steps=20"]
    Trainer(make_config(apply_settings(read_preset("maze-small"), settings), "test"), out).train()
    return out


def test_training_learns_something_and_reports_the_paths(run, tmp_path: Path) -> None:
    settings = [part for setting in [*SMALL, "training.eval_every=10"] for part in ("--set", setting)]
    out = tmp_path / "run"
    result = run("train", "--preset", "maze-small", *settings, "--steps", 20, "--out", out, "--json")
    assert result.code == 0, result.err
    evaluation = json.loads(result.out)["evaluation"]
    assert {"valid_path", "shortest_path", "exact_accuracy"} <= evaluation.keys()
    assert 0 <= evaluation["shortest_path"] <= evaluation["valid_path"] <= 1
    assert evaluation["valid"] == evaluation["shortest_path"]
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert losses[-1] < losses[0]
    report = run("eval", out, "--json", "--symmetries", 8, "--limit", 4)
    assert report.code == 0, report.err
    assert "shortest_path" in json.loads(report.out)


@pytest.mark.parametrize("compressed", ["", ".gz"])
def test_data_writes_a_table_that_eval_reads(run, trained: Path, tmp_path: Path, compressed: str) -> None:
    path = tmp_path / f"m.csv{compressed}"
    options = ["--count", 12, "--size", "5", "--min-density", 0.2, "--max-density", 0.4, "--min-distance", 4]
    result = run("data", "maze", *options, "--seed", 3, "--out", path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out) == {
        "out": str(path), "count": 12, "size": [5, 5], "densities": [0.2, 0.4], "min_distance": 4, "seed": 3,
    }  # fmt: skip
    again = tmp_path / f"again.csv{compressed}"
    assert "12 mazes" in run("data", "maze", *options, "--seed", 3, "--out", again).out
    assert path.read_bytes() == again.read_bytes()
    assert json.loads(run("eval", trained, "--data", path, "--json").out)["count"] == 12
    if not compressed:
        rows = list(csv.DictReader(path.open(newline="")))
        assert all(len(row["question"]) == len(row["answer"]) == 25 for row in rows)
        assert all(int(row["rating"]) == row["answer"].count("o") + 1 >= 4 for row in rows)


def test_rectangles(run, tmp_path: Path) -> None:
    assert run("data", "maze", "--size", "4x7", "--count", 3, "--out", tmp_path / "m.csv").code == 0
    assert {len(row["question"]) for row in csv.DictReader((tmp_path / "m.csv").open(newline=""))} == {28}


def test_solve_reads_text_json_and_png(run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trm_fast.interchange import locate

    (tmp_path / "m.txt").write_text("\n".join(MAZE) + "\n")
    (tmp_path / "m.json").write_text(json.dumps(MAZE))
    task = locate(str(trained)).task
    write_png(tmp_path / "m.png", task.picture(task.parse("\n".join(MAZE))))
    answers = {}
    for name in ("m.txt", "m.json", "m.png"):
        result = run("solve", trained, tmp_path / name, "--json", "--max-steps", 2)
        assert result.code == 0, result.err
        answers[name] = json.loads(result.out)
    assert json.loads(answers["m.json"]["solution"]) == answers["m.txt"]["solution"].replace(".", " ").split("\n")
    assert answers["m.png"]["solution"] == answers["m.txt"]["solution"].replace(".", " ")
    assert answers["m.txt"].keys() == {"solution", "confidence", "steps", "converged", "valid"}
    assert run("solve", trained, "\n".join(MAZE), "--json", "--max-steps", 2).code == 0
    for name in ("m.txt", "m.png", "m.json"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / name).read_bytes())))
        piped = run("solve", trained, "-", "--json", "--max-steps", 2)
        assert json.loads(piped.out) == answers[name]
    shown = run("solve", trained, tmp_path / "m.txt", "--max-steps", 2).out
    assert len([line for line in shown.splitlines() if len(line) == 5]) >= 5


def test_pictures_of_answers(run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("\n".join(MAZE) + "\n\n" + "\n".join(MAZE[::-1]))
    result = run("solve", trained, tmp_path / "m.txt", "--json", "--max-steps", 1, "--png", tmp_path / "out.png")
    assert result.code == 0, result.err
    assert {path.name for path in tmp_path.glob("*.png")} == {"out-1.png", "out-2.png"}
    assert read_png(tmp_path / "out-1.png").shape[2] == 3
    single = run("solve", trained, "\n".join(MAZE), "--json", "--max-steps", 1, "--png", tmp_path / "one.png")
    assert single.code == 0, single.err
    height, width, _ = read_png(tmp_path / "one.png").shape
    assert height == width >= 100
    lost = run("solve", trained, "\n".join(MAZE), "--png", "/nowhere/one.png")
    assert (lost.code, "Traceback" in lost.err) == (2, False)
    assert "/nowhere/one.png" in lost.err
    drawn = run("solve", "sudoku-4x4", "1.3.....4...2..1", "--json", "--png", tmp_path / "s.png")
    assert drawn.code == 0, drawn.err
    assert read_png(tmp_path / "s.png").shape[2] == 3


def test_solve_by_task_uses_a_model_that_ships(run, trained: Path, tmp_path: Path) -> None:
    named = run("solve", "sudoku-4x4", "1.3.....4...2..1", "--json")
    by_task = run("solve", "--task", "sudoku", "1.3.....4...2..1", "--json")
    assert by_task.out == named.out
    (tmp_path / "six.txt").write_text("1....." * 6)
    refused = run("solve", "--task", "sudoku", tmp_path / "six.txt")
    assert refused.code == 1
    assert all(name in refused.err for name in ("sudoku-4x4", "sudoku-6x6", "sudoku-cpu"))
    assert run("solve", "--task", "maze", trained, "\n".join(MAZE), "--json", "--max-steps", 1).code == 0


def test_the_model_that_ships_solves_unseen_mazes(run, tmp_path: Path) -> None:
    options = ["--count", 200, "--size", 9, "--min-distance", 4, "--seed", 5]
    assert run("data", "maze", *options, "--out", tmp_path / "m.csv").code == 0
    result = run("eval", "maze-small", "--data", tmp_path / "m.csv", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["shortest_path"] > 0.85
    (tmp_path / "open.txt").write_text("\n".join(["S........", *["#########"[:8] + "."] * 7, "........G"]))
    drawn = tmp_path / "drawn.png"
    result = run("solve", "--task", "maze", tmp_path / "open.txt", "--png", drawn, "--json")
    assert result.code == 0, result.err
    assert read_png(drawn).shape[2] == 3


BAD = [
    (["solve", "{run}"], 2, "a model and a puzzle"),
    (["solve", "--task", "sudoku", "{run}", "S"], 2, "is a model for maze"),
    (["solve", "--task", "mase", "S"], 2, "did you mean 'maze'"),
    (["data", "maze", "--size", "5y5", "--out", "x.csv"], 2, "--size"),
    (["data", "maze", "--size", "70", "--out", "x.csv"], 2, "1 to 64"),
    (["data", "maze", "--out", "/nowhere/x.csv"], 2, "/nowhere"),
    (["data", "maze", "--min-density", "0.6", "--out", "x.csv"], 2, "densities"),
    (["data", "maze", "--size", "5", "--min-distance", "30", "--out", "x.csv"], 2, "30 steps"),
    (["train", "--preset", "maze-small", "--set", "task.size=90"], 2, "1 to 64"),
    (["train", "--preset", "maze-small", "--set", "task.densities=[0.9, 0.1]"], 2, "densities"),
    (["solve", "{run}", "S#\n.G"], 1, "5x5"),
    (["solve", "{run}", "{tmp}/missing.png"], 1, "does not exist"),
    (["solve", "{run}", "\n".join(["S#...", "##..."] + ["....G"] * 1 + ["....."] * 2)], 1, "no path"),
    (["solve", "{run}", "[[1, 2], [3"], 1, "not valid JSON"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None
)
def test_mistakes_are_reported(
    run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(a.replace("{run}", str(trained)).replace("{tmp}", str(tmp_path)) for a in arguments))
    assert result.code == code, result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())
