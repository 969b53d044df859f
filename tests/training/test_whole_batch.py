"""Halting of a whole batch does not depend on the parts in which it is computed; losses on test examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trm_fast.models.halting import halting_rule
from trm_fast.training import Trainer
from trm_fast.training.folder import read_metrics

from .small import run_config


@pytest.mark.parametrize("supervision", ["carry", "unrolled"])
def test_parts_of_a_batch_halt_together(tmp_path: Path, supervision: str) -> None:
    keys = {"supervision": supervision, "steps": 3, "batch_size": 6, "exploration": 0.0}
    steps = []
    for parts in (1, 3):
        config = run_config({"halting": "batch", "max_supervision_steps": 4}, gradient_accumulation=parts, **keys)
        trainer = Trainer(config, tmp_path / f"{supervision}{parts}")
        with torch.no_grad():  # confidences differ between rows, and their mean is near the threshold
            trainer.model.q_head.bias.zero_()
            trainer.model.q_head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
        halted = []
        for number in range(1, 4):
            trainer._one_step()
            halted.append(trainer.step_function.carry.halted.tolist())
            assert len(set(halted[-1])) == 1, number
        steps.append((halted, trainer.step_function.peek_totals()["loss"]))
    assert steps[0][0] == steps[1][0]
    assert steps[0][1] == pytest.approx(steps[1][1], rel=1e-4)


def test_never_halts() -> None:
    rule, q = halting_rule("never", 0.5), torch.tensor([9.0, -9.0])
    assert rule.should_halt(q, torch.ones(2), lambda: q, rule.memory(2, q.device)).tolist() == [False, False]


def test_an_evaluation_logs_the_loss_on_test_examples(tmp_path: Path) -> None:
    config = run_config({}, steps=4, eval_every=2, eval_loss_count=5, log_every=2)
    trainer = Trainer(config, tmp_path / "run")
    trainer.train()
    records = [record for record in read_metrics(tmp_path / "run") if "eval_loss" in record]
    assert [record["step"] for record in records] == [2, 4]
    last = records[-1]
    assert last["eval_loss"] == pytest.approx(last["eval_answer_loss"] + 0.5 * last["eval_halting_loss"])
    assert trainer.evaluator.losses(4)["loss"] == pytest.approx(last["eval_loss"])
    again = Trainer(config.model_copy(update={"training": config.training.model_copy(update={"eval_loss_count": 0})}),
                    tmp_path / "none")  # fmt: skip
    again.train()
    assert not any("eval_loss" in record for record in read_metrics(tmp_path / "none"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)  # the loss changes nothing
