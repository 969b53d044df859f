"""Fine-tuning: which tensors are copied, the notes about the others, and a schedule that preserves accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver, evaluate
from trm_fast.interchange import locate
from trm_fast.training import Callback, Trainer, apply_settings, fine_tuning, make_config, read_preset, transfer

from .small import KillAt, Killed, make_model, run_config, training_config


class Notes(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_note(self, text: str) -> None:
        self.lines.append(text)


def source(**changes: Any) -> TRM:
    return TRM(run_config(changes).model)


def test_all_tensors_of_an_equal_model_are_copied(tmp_path: Path) -> None:
    model, notes = source(), Notes()
    trainer = Trainer(run_config(), tmp_path / "run", init=model, callbacks=[notes])
    assert notes.lines == []
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    for average, weight in zip(trainer.optimizer.ema or [], model.parameters(), strict=True):
        assert torch.equal(average, weight)
    trainer.train()
    assert not torch.equal(trainer.model.q_head.bias, model.q_head.bias)  # the models share no memory


def test_tensors_that_are_not_copied_are_listed() -> None:
    new, old = make_model(1, vocab_size=9, positions="learned"), make_model(2, prefix_tokens=0, state="single")
    assert transfer(old, new, "old") == [
        "y_init: starts fresh, old has none",
        "embedding.tokens.weight: starts fresh, its shape is 9x8 and not 6x8",
        "embedding.positions.weight: starts fresh, old has none",
        "head.linear.weight: starts fresh, its shape is 9x8 and not 6x8",
    ]
    assert torch.equal(new.net.blocks[0].mlp.part.down.weight, old.net.blocks[0].mlp.part.down.weight)
    assert transfer(new, old, "new")[-2:] == [
        "y_init: the run has no such tensor",
        "embedding.positions.weight: the run has no such tensor",
    ]


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"no layer of old fits: it has hidden_size 16, .* the run 8, 6 and mlp"):
        transfer(make_model(hidden_size=16, seq_len=7), make_model(), "old")


def test_the_rate_is_zero_and_then_warms_up() -> None:
    config = training_config(hold_steps=3, warmup_steps=4, learning_rate=0.4, schedule="constant")
    assert [config.learning_rate_at(s) for s in range(1, 9)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4])
    held = training_config(hold_steps=2, warmup_steps=0, schedule="constant", learning_rate=0.4)
    assert [held.learning_rate_at(s) for s in range(1, 5)] == pytest.approx([0, 0, 0.4, 0.4])
    cosine = training_config(hold_steps=2, warmup_steps=2, learning_rate=1.0, final_learning_rate=0.0, steps=10)
    assert cosine.learning_rate_at(4) == 1
    assert cosine.learning_rate_at(7) == pytest.approx(0.5)
    assert cosine.learning_rate_at(10) == pytest.approx(0, abs=1e-9)


def test_steps_at_rate_zero_fill_the_moments_and_keep_the_weights(tmp_path: Path) -> None:
    model = source()
    torch.nn.init.normal_(model.q_head.weight, std=3)  # rows halt at different steps
    trainer = Trainer(run_config(steps=6, hold_steps=6, eval_every=0), tmp_path / "run", init=model)
    trainer.train()
    for name, tensor in trainer.model.named_parameters():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert all(bool((v > 0).any()) for v in trainer.optimizer.slots["exp_avg_sq"])
    assert len(set(trainer.step_function.carry.steps.tolist())) > 1


def test_settings_override_the_fine_tuning_schedule() -> None:
    tuned = make_config(apply_settings(fine_tuning(read_preset("sudoku-6x6")), ["training.hold_steps=7"]), "x")
    plain = make_config(read_preset("sudoku-6x6"), "x")
    assert tuned.training.hold_steps == 7
    assert 0 < tuned.training.learning_rate < plain.training.learning_rate
    assert tuned.model == plain.model


def test_a_run_killed_early_resumes_from_the_initial_model(tmp_path: Path) -> None:
    model = source()
    whole = Trainer(run_config(steps=6, eval_every=0), tmp_path / "whole", init=model)
    whole.train()
    with pytest.raises(Killed):
        Trainer(run_config(steps=6, eval_every=0), tmp_path / "run", init=model, callbacks=[KillAt(3)]).train()
    resumed = Trainer.resume(tmp_path / "run")
    assert resumed.step == 0
    resumed.train()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("givens", ["[10,18]", "[8,10]"])
def test_accuracy_never_falls_by_two_points(givens: str, tmp_path: Path) -> None:
    """Fine-tunes the 6x6 model that ships, on its own puzzles and on ones with fewer givens."""
    settings = ["training.steps=60", f"task.givens={givens}", "task.train_count=500", "task.test_count=200"]
    config = make_config(apply_settings(fine_tuning(read_preset("sudoku-6x6")), settings), "x")
    seen: list[float] = []

    class Watch(Callback):
        def on_step(self, step: int) -> None:
            if step % 12 == 0:
                seen.append(accuracy())

    trainer = Trainer(config, tmp_path / "run", init=locate("sudoku-6x6").model, callbacks=[Watch()])

    def accuracy() -> float:
        return evaluate(Solver(trainer.averaged_model(), trainer.task), trainer.dataset.test).exact_accuracy

    start = accuracy()
    trainer.train()
    assert start > 0.95
    assert len(seen) == 5
    assert min(seen) >= start - 0.02
