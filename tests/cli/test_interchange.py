"""Models in and out, and fine-tuning, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trm_fast.interchange import locate, published_names


def published(path: Path, reference: str) -> None:
    """A model as the published code saves it, compiled."""
    model = locate(reference).model
    ours = model.state_dict()
    state = {f"_orig_mod.model.inner.{name}": ours[mine] for mine, name in published_names(model.config).items()}
    torch.save(state, path)


def test_import_solves_as_before(run, tmp_path: Path) -> None:
    """Published widths are multiples of 256: a model of such a size, trained a step."""
    small = ["--set", "model.hidden_size=96", "--set", "model.inner_multiple=256", "--set", "model.expansion=4.0"]
    small += ["--set", "task.train_count=20", "--set", "task.test_count=5", "--set", "training.batch_size=4"]
    made = tmp_path / "run"
    assert run("train", "--preset", "sudoku-4x4", *small, "--steps", 1, "--out", made, "--json").code == 0
    published(tmp_path / "step_1", str(made))
    task = "{name: sudoku, size: 4}"
    asked = run("import", tmp_path / "step_1", "--task", task, "--out", tmp_path / "model")
    assert asked.code == 2
    assert "give --config or --cycles" in asked.err
    said = ["--cycles", 1, "--latent-steps", 1, "--out", tmp_path / "model"]
    wrong = run("import", tmp_path / "step_1", "--task", "sudoku", *said)
    assert "is it another --task?" in wrong.err
    result = run("import", tmp_path / "step_1", "--task", task, *said)
    assert result.code == 0, result.err
    assert "sudoku" in result.out
    puzzle = "3.......4.3...42"
    ours, theirs = (run("solve", m, puzzle, "--max-steps", 3, "--json").out for m in (made, tmp_path / "model"))
    assert json.loads(ours) == json.loads(theirs)
    again = run("import", tmp_path / "step_1", "--task", task, *said)
    assert "holds a model already" in again.err


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
