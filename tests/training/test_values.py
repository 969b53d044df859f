"""Runs with real-valued examples: exact resume, evaluation, votes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trm_fast.inference import Solver, evaluate
from trm_fast.interchange import locate
from trm_fast.training import RunConfig, Trainer, apply_settings, checkpoint, make_config, read_preset
from trm_fast.training.folder import read_metrics

from .small import KillAt, Killed

SMALL = ["model.hidden_size=8", "model.num_heads=2", "training.steps=24", "training.batch_size=8"]
SMALL += ["training.dtype=float32"]
SMALL += ["training.checkpoint_every=8", "training.log_every=4", "training.eval_every=12", "task.test_count=20"]


def small(preset: str) -> RunConfig:
    extra = [] if preset == "copy" else ["task.train_count=100"]
    return make_config(apply_settings(read_preset(preset), SMALL + extra), preset)


@pytest.mark.parametrize("preset", ["copy", "sequence"])
def test_a_killed_run_resumes_bit_for_bit(preset: str, tmp_path: Path) -> None:
    whole = Trainer(small(preset), tmp_path / "whole")
    summary = whole.train()
    killed = Trainer(small(preset), tmp_path / "killed", callbacks=[KillAt(19)])
    with pytest.raises(Killed):
        killed.train()
    resumed = Trainer.resume(tmp_path / "killed")
    assert resumed.step == 16
    assert resumed.train()["evaluation"]["mean_absolute_error"] == summary["evaluation"]["mean_absolute_error"]
    want, got = (checkpoint.load(tmp_path / name)[0] for name in ("whole", "killed"))
    for group, tensors in want.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, got[group][name]), f"{group}/{name}"
    assert want["carry"]["inputs"].dtype == torch.float32
    logged = [[r["loss"] for r in read_metrics(tmp_path / n) if "loss" in r] for n in ("whole", "killed")]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 6


@pytest.mark.slow
def test_the_model_learns_answers_and_not_only_to_judge_them(tmp_path: Path) -> None:
    """Errors must be measured in tolerances. In the labels' units the halting loss dominated, and half of these rows
    stayed wrong."""
    settings = ["model.hidden_size=32", "training.steps=500", "training.batch_size=64", "training.learning_rate=5e-3"]
    settings += ["task.kinds=[arithmetic]", "task.train_count=2000", "task.test_count=200"]
    config = make_config(apply_settings(read_preset("sequence"), settings), "sequence")
    assert Trainer(config, tmp_path / "run").train()["evaluation"]["exact_accuracy"] > 0.95


def test_accuracy_equals_a_count_of_right_numbers(tmp_path: Path) -> None:
    Trainer(small("copy"), tmp_path / "run").train()
    located = locate(str(tmp_path / "run"))
    test = located.task.dataset(located.data, located.seed).test
    solver = Solver(located.model, located.task)
    result, solved = evaluate(solver, test), solver.run(test)
    near = np.abs(solved.solution - test.labels) <= 0.1
    assert 0 < near.mean() < 1
    assert result.exact_accuracy == near.all(axis=(1, 2)).mean()
    assert result.cell_accuracy == pytest.approx(near.mean())
    assert result.valid is None
    labels = test.labels.copy()
    labels[:, 1:] = np.nan  # only the first number is labeled
    first = evaluate(solver, type(test)(test.inputs, labels, test.puzzle_ids))
    assert first.exact_accuracy == pytest.approx(near[:, 0].mean())
    answer = solver.solve("[0.1, 0.2, 0.3, 0.4, 0.5]", return_trajectory=True)
    assert answer.solution.startswith("[")
    assert answer.raw.shape == (5, 1)
    assert answer.trajectory is not None
    assert answer.trajectory[-1].solution == answer.solution


def test_similar_answers_vote_for_each_other(tmp_path: Path) -> None:
    Trainer(small("copy"), tmp_path / "run").train()
    located = locate(str(tmp_path / "run"))
    test = located.task.dataset(located.data, located.seed).test
    from trm_fast.inference.options import SolverConfig
    from trm_fast.inference.tries import Tries

    tries = Tries(located.task, test.take(slice(1)), SolverConfig(), np.random.default_rng(0))
    answers = np.array([[0.0, 0.05, 0.9, 0.02]])[..., None, None] + np.zeros((1, 4, 5, 1))
    assert tries._agreement(answers).sum(-1).tolist() == [[3, 3, 1, 3]]
