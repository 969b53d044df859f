"""The options of tries on the command line: no answer, budgets, sweeps, and options that a model stores."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from trm_fast.training.folder import read_run_config

PUZZLE = "1...........2.43"
SHIPPED = Path(str(files("trm_fast.pretrained") / "sudoku-6x6"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


@pytest.fixture
def hard(tmp_path: Path, run) -> Path:
    """6x6 puzzles that the model does not solve in one step."""
    file, givens = tmp_path / "hard.csv", ("--min-givens", 8, "--max-givens", 9)
    assert run("data", "sudoku", "--size", 6, "--count", 12, "--seed", 3, *givens, "--out", file).code == 0
    return file


def stored(model: Path) -> dict[str, object]:
    section = json.loads((model / "config.json").read_text()).get("solver", {})
    assert isinstance(section, dict)
    return section


def test_no_answer_is_null_for_programs_and_a_line_for_people(run, model: Path, hard: Path, tmp_path: Path) -> None:
    condition = ("--max-steps", 1, "--answer-only-if", "valid")
    result = run("solve", model, hard, *condition, "--json")
    assert result.code == 0
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert any(a["solution"] is None for a in answers)
    assert all((a["solution"] is None) == (not a["valid"]) for a in answers)
    shown = run("solve", model, hard, *condition, "--output", tmp_path / "answers.jsonl")
    valid = sum(a["valid"] for a in answers)
    assert f"{valid} of 12 solved" in shown.out
    lines = run("solve", model, hard, *condition, "--png", tmp_path / "answer.png")
    assert lines.code == 0
    assert lines.out.count("no answer: confidence ") == 12 - valid
    report = json.loads(run("eval", model, "--data", hard, *condition, "--json").out)
    assert report["coverage"] == report["exact_accuracy"] == valid / 12
    assert report["answered_accuracy"] == (1.0 if valid else None)
    assert "exact accuracy of answered" in run("eval", model, "--data", hard, *condition).out
    wrong = run("solve", model, hard, "--answer-only-if", "certain")
    assert wrong.code == 2
    assert "answer-only-if takes valid or confidence>=X" in wrong.err


def test_a_budget_counts_from_the_start_of_the_command(run, model: Path, hard: Path) -> None:
    result = run("solve", model, hard, "--budget", 0, "--batch-size", 5, "--json")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [a["steps"] for a in answers] == [1] * 5 + [0] * 7
    assert [a["solution"] is None for a in answers] == [False] * 5 + [True] * 7


def test_sweeps_share_a_plot(run, model: Path, hard: Path, tmp_path: Path) -> None:
    sweeps = ("--sweep", "symmetries=1,3", "--sweep", "rollouts=1,3 noise=0.3 start=random", "--max-steps", 2)
    plot = tmp_path / "plot.png"
    result = run("eval", model, "--data", hard, *sweeps, "--plot", plot, "--json")
    assert result.code == 0, result.err
    reports = [json.loads(line) for line in result.out.splitlines()]
    assert [r.get("symmetries") for r in reports] == [1, 3, None, None]
    fixed = [(r["rollouts"], r["noise"], r["start"]) for r in reports[2:]]
    assert fixed == [(1, 0.3, "random"), (3, 0.3, "random")]
    assert reports[0]["exact_accuracy"] == reports[2]["exact_accuracy"], "one try is plain"
    per_step = {r["flop"] / r["mean_steps"] for r in reports}
    assert max(per_step) == pytest.approx(min(per_step))
    assert plot.read_bytes().startswith(b"\x89PNG")
    table = run("eval", model, "--data", hard, *sweeps, "--plot", plot)
    assert "noise=0.3 start=random" in table.out
    for text in ("speed=1", "steps=a", "rollouts=2 noise=0.1,0.2", "steps=1,2,1", ""):
        wrong = run("eval", model, "--data", hard, "--sweep", text)
        assert wrong.code == 2, text
        assert "--sweep takes one of" in wrong.err


def test_a_model_stores_its_options(run, model: Path, hard: Path) -> None:
    assert stored(model) == {}
    saved = run("eval", model, "--data", hard, "--symmetries", 3, "--max-steps", 2, "--save-defaults", "--json")
    assert saved.code == 0, saved.err
    assert stored(model) == {"symmetries": 3, "max_steps": 2}
    default = json.loads(run("eval", model, "--data", hard, "--json").out)
    explicit = json.loads(saved.out)
    for key in ("exact_accuracy", "mean_steps", "valid"):
        assert default[key] == explicit[key]
    one = run("eval", model, "--data", hard, "--rollouts", 1, "--symmetries", 1, "--noise", 0, "--json")
    assert json.loads(one.out)["mean_steps"] <= 2.0 < default["mean_steps"]
    exported = run("export", model, "--format", "safetensors", "--out", model.parent / "exported")
    assert exported.code == 0
    assert stored(model.parent / "exported") == {"symmetries": 3, "max_steps": 2}
    shipped = run("eval", "sudoku-4x4", "--limit", 1, "--save-defaults")
    assert shipped.code == 2
    assert "sudoku-4x4 is not a folder" in shipped.err


def test_an_invalid_section_of_a_model_is_rejected(run, model: Path, hard: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"solver": {"symmetrys": 3}}))
    result = run("solve", model, hard)
    assert result.code == 2
    assert f"{model / 'config.json'}: unknown key solver.symmetrys; did you mean symmetries?" in result.err


def test_training_copies_the_section_into_the_model(run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ["task.train_count=60", "task.test_count=5", "model.hidden_size=16", "training.batch_size=8"]
    options = [word for setting in [*tiny, "solver.symmetries=2"] for word in ("--set", setting)]
    result = run("train", "--preset", "sudoku-4x4", *options, "--steps", 2, "--out", out, "--json")
    assert result.code == 0, result.err
    assert stored(out / "model") == {"symmetries": 2}
    assert json.loads(run("solve", out, PUZZLE, "--max-steps", 1, "--json").out)["steps"] == 2
    changed = run("eval", out, "--symmetries", 3, "--max-steps", 1, "--limit", 2, "--save-defaults", "--json")
    assert changed.code == 0, changed.err
    assert stored(out / "model") == read_run_config(out).solver.changes() == {"symmetries": 3, "max_steps": 1}
    wrong = run("train", "--preset", "sudoku-4x4", "--set", "solver.tries=2", "--out", tmp_path / "other")
    assert wrong.code == 2
    assert "unknown key solver.tries" in wrong.err


def test_a_puzzle_that_looks_like_an_option(run) -> None:
    minus_ones = " ".join("-1" if c == "." else c for c in "." + PUZZLE[1:])
    for puzzle in (minus_ones, PUZZLE.replace("1", "-", 1).replace(".", "-")):
        result = run("solve", "sudoku-4x4", puzzle, "--json")
        assert result.code == 2
        assert "Write -- before a puzzle that starts with -" in " ".join(result.err.replace("│", " ").split())
    assert json.loads(run("solve", "sudoku-4x4", "--json", "--", minus_ones).out)["solution"].count(" ") == 15
    assert "Write -- before" not in run("solve", "sudoku-4x4", PUZZLE, "--jsn").err


def test_tables_of_other_programs_are_read_by_all_commands(run, tmp_path: Path) -> None:
    solution = "1324423134122143"
    rows = "".join(f"{i};{PUZZLE};{solution};{rating}\n" for i, rating in enumerate(("2,5", "hard", "")))
    (tmp_path / "a.csv").write_text(f"id;Quizzes;Solutions;rating\n{rows}")
    assert len(run("solve", "sudoku-4x4", tmp_path / "a.csv", "--json").out.splitlines()) == 3
    assert json.loads(run("eval", "sudoku-4x4", "--data", tmp_path / "a.csv", "--json").out)["count"] == 3
    train = run("train", "--preset", "sudoku-4x4", "--data", tmp_path / "a.csv", "--holdout", 0, "--dry-run", "--json")
    assert train.code == 0
