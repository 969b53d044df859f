"""Importing, exporting and fine-tuning models from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trm_fast.interchange import locate, published_names


def published(path: Path, reference: str) -> None:
    """Writes a model in the form in which the published code saves a compiled one."""
    model = locate(reference).model
    tensors, names = model.state_dict(), published_names(model.config)
    state = {f"_orig_mod.model.inner.{published_name}": tensors[name] for name, published_name in names.items()}
    torch.save(state, path)


def test_an_imported_model_gives_the_same_answers(run, tmp_path: Path) -> None:
    """A model trained for one step; its inner width is a multiple of 256, as in published models."""
    small = ["--set", "model.hidden_size=96", "--set", "model.inner_multiple=256", "--set", "model.expansion=4.0"]
    small += ["--set", "task.train_count=20", "--set", "task.test_count=5", "--set", "training.batch_size=4"]
    folder = tmp_path / "run"
    assert run("train", "--preset", "sudoku-4x4", *small, "--steps", 1, "--out", folder, "--json").code == 0
    published(tmp_path / "step_1", str(folder))
    task = "{name: sudoku, size: 4}"
    unspecified = run("import", tmp_path / "step_1", "--task", task, "--out", tmp_path / "model")
    assert unspecified.code == 2
    assert "use --config or --cycles" in unspecified.err
    options = ["--cycles", 1, "--latent-steps", 1, "--out", tmp_path / "model"]
    wrong = run("import", tmp_path / "step_1", "--task", "sudoku", *options)
    assert "is it for another --task?" in wrong.err
    for option in ("--prefix-tokens", "--puzzles"):
        ignored = run("import", tmp_path / "step_1", "--task", task, *options, option, 4)
        assert (ignored.code, f"{option}: the model has no puzzle embedding" in ignored.err) == (2, True)
    result = run("import", tmp_path / "step_1", "--task", task, *options)
    assert result.code == 0, result.err
    assert "sudoku" in result.out
    puzzle = "3.......4.3...42"
    ours, theirs = (run("solve", m, puzzle, "--max-steps", 3, "--json").out for m in (folder, tmp_path / "model"))
    assert json.loads(ours) == json.loads(theirs)
    again = run("import", tmp_path / "step_1", "--task", task, *options)
    assert "already contains a model" in again.err


def test_export(run, tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "model"
    assert run("export", trained, "--format", "safetensors", "--out", folder).code == 0
    assert run("export", trained, "--format", "safetensors", "--out", folder).code == 2
    puzzle = "3.......4.3...42"
    assert run("solve", folder, puzzle, "--json").out == run("solve", trained, puzzle, "--json").out
    assert run("export", trained, "--format", "safetensors", "--part", "step").code == 2
    pytest.importorskip("onnx", reason="needs the extra onnx")
    for part in ("solve", "step"):
        path = tmp_path / f"{part}.onnx"
        result = run("export", trained, "--format", "onnx", "--part", part, "--out", path, "--json")
        assert json.loads(result.out) == {"path": str(path), "format": "onnx"}
        assert path.stat().st_size > 1000


def test_fine_tuning_from_a_run_and_across_presets(run, tmp_path: Path, trained: Path) -> None:
    tiny = ["--set", "training.batch_size=8", "--set", "task.train_count=60", "--set", "task.test_count=20"]
    same = ["train", "--preset", "sudoku-4x4", *tiny, "--steps", 2, "--json"]
    first = run(*same, "--set", "model.hidden_size=16", "--init-from", trained, "--out", tmp_path / "a")
    assert first.code == 0, first.err
    assert "starts fresh" not in first.err
    config = (tmp_path / "a" / "config.yaml").read_text()
    assert "hold_steps: 32" in config
    other = run(*same, "--set", "model.hidden_size=16", "--set", "model.num_layers=3", "--set", "model.state=single",
                "--init-from", trained, "--out", tmp_path / "b")  # fmt: skip
    assert other.code == 0, other.err
    assert "net.blocks.2.mix.part.down.weight: starts fresh" in other.err
    assert "y_init: the run has no such tensor" in other.err
    elsewhere = ["train", "--preset", "sudoku-6x6", *tiny, "--steps", 2, "--json"]
    larger = run(*elsewhere, "--init-from", trained, "--out", tmp_path / "c")
    assert larger.code == 2
    assert "hidden_size 16" in larger.err
    assert run("train", "--resume", tmp_path / "a", "--init-from", trained).code == 2


def test_a_readme_that_exists_stays_and_that_is_said(run, trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    target.mkdir()
    (target / "README.md").write_text("mine")
    result = run("export", trained, "--format", "safetensors", "--out", target)
    assert result.code == 0
    assert "README.md stays as it is" in " ".join(result.err.split())
    assert (target / "README.md").read_text() == "mine"
