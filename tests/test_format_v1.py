"""Models and runs of format version 1 still load, solve and resume, with the results of the code that wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.models.format_v1 import upgrade_model_section, upgrade_sections
from trm_fast.training import Trainer
from trm_fast.training.folder import read_metrics

FIXTURES = Path(__file__).parent / "fixtures" / "format_v1"
MODELS = sorted(folder.name for folder in (FIXTURES / "models").iterdir())
RUNS = ["sudoku-4x4", "tool-select", "tool-slots"]


def expected(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model's inputs by name, and its results when the files were written."""
    with np.load(FIXTURES / "models" / name / "expected.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    inputs = {key.removeprefix("input/"): tensors.pop(key) for key in list(tensors) if key.startswith("input/")}
    return inputs, tensors


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    extra, want = expected(name)
    inputs, ids = extra.pop("inputs"), extra.pop("puzzle_ids", None)
    model = TRM.from_pretrained(FIXTURES / "models" / name)
    model.save_pretrained(tmp_path / "again")
    for one in (model, TRM.from_pretrained(tmp_path / "again")):
        with torch.no_grad():
            out = one(inputs, one.initial_state(3), one.puzzle_rows(ids, 3), **extra)
        parts: Any = (out.logits,) if isinstance(out.logits, torch.Tensor) else out.logits
        for i, part in enumerate(part for part in parts if part is not None):
            torch.testing.assert_close(part, want[f"logits/{i}"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out.q, want["q"], rtol=1e-4, atol=1e-4)
        solved = one.solve(inputs, 2, halt=False, puzzle_ids=ids, extra=extra)
        torch.testing.assert_close(solved["confidence"], want["confidence"], rtol=1e-4, atol=1e-4)
        logits = 3 if name in ("selection", "classifier") else 0  # their answers begin with logits, in thousandths
        for part, most in ((np.s_[:, :logits], 1.0), (np.s_[:, logits:], 1e-4)):
            torch.testing.assert_close(solved["solution"][part], want["solution"][part], rtol=1e-4, atol=most)
        assert one.num_parameters() == int(want["parameters"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_with_the_same_metrics(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURES / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    run = tmp_path / "runs" / name
    want = json.loads((run / "expected.json").read_text())
    trainer = Trainer.resume(run)
    assert trainer.step == 4
    summary = trainer.train()
    metrics = [line for line in read_metrics(run) if "loss" in line]
    assert [line["step"] for line in metrics] == list(range(1, want["after"] + 1))
    for got, line in zip(metrics, want["metrics"], strict=True):
        for key, value in line.items():
            assert got.get(key) == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-6)), (key, got)
    for key, value in want["evaluation"].items():
        # Processors round differently, which may change the answers of a few examples.
        assert summary["evaluation"][key] == pytest.approx(value, abs=0.05)


def test_flat_keys_move_to_the_section_of_their_head() -> None:
    flat = {"state_widths": "own", "reasoning_dim": 6, "action_dim": 5, "hidden_size": 8}
    widths = {"hidden_size": 8, "latent_width": 6, "answer_width": 5}
    assert upgrade_model_section(flat, "selection") == widths | {"head": {"tool_width": 6, "value_width": 5}}
    assert upgrade_model_section(flat, "text") == widths | {"head": {"pointer_width": 5}}
    assert upgrade_model_section(flat | {"state": "single"}) == {"state": "single", "hidden_size": 8, "latent_width": 6}
    values = {"outputs": "values", "output_width": 3, "num_tools": 2}
    assert upgrade_model_section(values) == {"head": {"kind": "values", "width": 3}}
    assert upgrade_model_section({"head": {"kind": "values"}}) == {"head": {"kind": "values"}}


def test_the_arguments_option_moves_to_the_section_of_the_head() -> None:
    old = {"model": {"hidden_size": 8}, "training": {"steps": 3, "arguments": "last"}}
    new = upgrade_sections(old, "slots")
    assert new == {"model": {"hidden_size": 8, "head": {"arguments": "last"}}, "training": {"steps": 3}}
    assert upgrade_sections({"training": {"arguments": "every"}}) == {"training": {}}


def test_removed_options_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "models" / "tokens", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"norm": "rms"', '"norm": "layer"'))
    with pytest.raises(UserError, match=r"config\.json: model\.norm: layer was removed"):
        TRM.from_pretrained(tmp_path / "model")
