"""A signal ends an evaluation at once, and the resumed run repeats it: it equals an uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trm_fast.training import Callback, Trainer, checkpoint
from trm_fast.training.folder import read_metrics
from trm_fast.training.signals import Interrupted, stop_on_signal

from .small import run_config
from .test_resume import assert_same, content


class Impatient(Callback):
    """Sends SIGTERM during the evaluation at a step, or while steps up to this one are trained."""

    def __init__(self, step: int, *, evaluating: bool = True) -> None:
        self.at, self.evaluating, self.now, self.evaluated = step, evaluating, 0, 0

    def on_step(self, step: int) -> None:
        self.now = step
        if step == self.at and not self.evaluating:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_evaluation(self, done: int, count: int) -> None:
        self.evaluated += 1
        if self.now == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("eval_every", "at"), [(0, 22), (10, 22), (10, 10), (15, 15)])
def test_a_signal_ends_an_evaluation(eval_every: int, at: int, tmp_path: Path) -> None:
    config = run_config(steps=22, eval_every=eval_every, checkpoint_every=10, keep_checkpoints=9)
    Trainer(config, tmp_path / "straight").train()
    out, impatient = tmp_path / "run", Impatient(at)
    summary = Trainer(config, out, callbacks=[impatient]).train()
    assert (summary["interrupted"], summary["steps"], summary["evaluation"]) == (True, at, None)
    assert checkpoint.saved_steps(out)[-1] == at
    assert not (out / "model").exists()
    assert not any("eval_count" in record for record in read_metrics(out) if record["step"] == at)
    resumed = Trainer.resume(out).train()
    assert (resumed["interrupted"], resumed["steps"]) == (False, 22)
    got, want = content(out), content(tmp_path / "straight")
    if at % 10 and at < 22:  # the checkpoint of the interruption
        got = {name: value for name, value in got.items() if not name.startswith(f"{at}/")} | {"steps": want["steps"]}
    assert_same(got, want)


def test_a_signal_in_the_last_step_needs_no_evaluation(tmp_path: Path) -> None:
    impatient = Impatient(7, evaluating=False)
    summary = Trainer(run_config(steps=7, eval_every=0), tmp_path / "run", callbacks=[impatient]).train()
    assert (summary["interrupted"], impatient.evaluated) == (True, 0)
    again = Trainer.resume(tmp_path / "run").train()
    assert again["evaluation"]["count"] > 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_interrupts() -> None:
    with stop_on_signal() as stop:
        with stop.interrupts():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), stop.interrupts():
            pytest.fail("the block must not begin")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with stop_on_signal() as stop, pytest.raises(Interrupted), stop.interrupts():
        os.kill(os.getpid(), signal.SIGINT)
