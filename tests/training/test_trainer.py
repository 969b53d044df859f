"""Runs: their files, errors and ends."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver, evaluate
from trm_fast.training import Callback, Trainer, TrainStep, checkpoint, make_config
from trm_fast.training.folder import read_metrics

from .small import SECTIONS, KillAt, Killed, run_config


class Recording(Callback):
    """Records all calls, and calls a function at a step."""

    def __init__(self, at: int = 0, act: Any = None) -> None:
        self.at, self.act = at, act
        self.steps: list[int] = []
        self.records: list[dict[str, Any]] = []
        self.evaluated: list[tuple[int, int]] = []

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.at:
            self.act()

    def on_log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def on_evaluation(self, done: int, count: int) -> None:
        self.evaluated.append((done, count))


def test_a_whole_run_writes_metrics_checkpoints_model_and_summary(tmp_path: Path) -> None:
    recording, out = Recording(), tmp_path / "runs" / "a"
    trainer = Trainer(
        run_config(steps=22, eval_every=10, eval_count=4, keep_checkpoints=1), str(out), callbacks=[recording]
    )
    summary = trainer.train()
    assert recording.steps == list(range(1, 23))
    assert json.loads(json.dumps(recording.records)) == read_metrics(out)
    training = [r for r in recording.records if "loss" in r]
    assert [r["step"] for r in training] == [4, 8, 12, 16, 20, 22]
    assert all(r["sample_steps"] == 7 * r["step"] for r in training)
    rates = [trainer.config.training.learning_rate_at(r["step"]) for r in training]
    assert [r["learning_rate"] for r in training] == rates
    evaluations = [r for r in recording.records if "eval_exact_accuracy" in r]
    assert [r["step"] for r in evaluations] == [10, 20, 22]
    assert all(r["eval_count"] == 4 for r in evaluations)
    assert recording.evaluated[-1] == (4, 4)
    seconds = [r["seconds"] for r in recording.records]
    assert seconds == sorted(seconds)

    best = max(evaluations, key=lambda r: (r["eval_exact_accuracy"], r["step"]))["step"]
    assert summary["best"]["step"] == best
    assert checkpoint.saved_steps(out) == sorted({22, *([best] if best in (10, 20) else [])})
    averaged = load_file(out / "checkpoints" / f"step_{best}" / "ema.safetensors")
    exported = load_file(out / "best_model" / "model.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in averaged.items())
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert (summary["steps"], summary["sample_steps"], summary["interrupted"]) == (22, 154, False)
    assert summary["parameters"] == trainer.model.num_parameters()
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "best_model", "checkpoints", "config.yaml", "metrics.jsonl", "model", "summary.json",
    ]  # fmt: skip

    # The saved model has the averaged weights, and with them the accuracy of the evaluation.
    test = trainer.dataset.test.take(slice(4))
    evaluated = evaluate(Solver(TRM.from_pretrained(out / "model", trainer.model.compute_dtype), trainer.task), test)
    assert evaluated.cell_accuracy == pytest.approx(evaluations[-1]["eval_cell_accuracy"])
    assert trainer.optimizer.ema is not None
    names = [name for name, _ in trainer.model.named_parameters()]
    averages = dict(zip(names, trainer.optimizer.ema, strict=True))
    assert torch.equal(TRM.from_pretrained(out / "model").q_head.weight, averages["q_head.weight"])
    assert not torch.equal(TRM.from_pretrained(out / "model").q_head.weight, trainer.model.q_head.weight)


def test_only_halted_slots_draw_examples(tmp_path: Path) -> None:
    trainer = Trainer(run_config(exploration=0.0, eval_every=0), tmp_path / "run")
    for _ in range(4):  # an untrained model does not halt: each slot keeps its example for 4 steps
        trainer._one_step()
        assert int(trainer.step_function.pool.taken) == 7
        rate = trainer.config.training.learning_rate_at(trainer.step)
        assert trainer.optimizer.lr.item() == pytest.approx(rate)
    trainer._one_step()
    assert int(trainer.step_function.pool.taken) == 14
    assert trainer.step_function.carry.steps.tolist() == [1] * 7


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(run_config(), out, callbacks=[KillAt(12)]).train()
    metrics = (out / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"holds a run already: continue with --resume .*run"):
        Trainer(run_config(), out)
    (out / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(run_config(), out)
    assert (out / "metrics.jsonl").read_text() == metrics


def test_resuming_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        Trainer.resume(tmp_path)
    (tmp_path / "config.yaml").write_text("task: {name: sudoku, size: 5}\n")
    with pytest.raises(UserError, match=r"config\.yaml: task\.size = 5"):
        Trainer.resume(tmp_path)


@pytest.mark.parametrize("log_every", [4, 1000])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoints(log_every: int, tmp_path: Path) -> None:
    def poison() -> None:
        with torch.no_grad():
            trainer.model.head.linear.weight[0, 0] = float("nan")

    out = tmp_path / "run"
    config = run_config(log_every=log_every, eval_every=0, checkpoint_every=5, keep_checkpoints=1)
    trainer = Trainer(config, out, callbacks=[Recording(11, poison)])
    with pytest.raises(UserError, match=r"loss is not finite after step 1[25].* continues from step_10"):
        trainer.train()
    assert checkpoint.saved_steps(out) == [10]
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(out)[0]["model"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_the_step(number: int, tmp_path: Path) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    out, config = tmp_path / "run", run_config(eval_every=0)
    summary = Trainer(config, out, callbacks=[Recording(13, lambda: os.kill(os.getpid(), number))]).train()
    assert summary["interrupted"]
    assert summary["steps"] == 13
    assert summary["evaluation"] is None
    assert checkpoint.saved_steps(out) == [10, 13]
    assert not (out / "model").exists()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    Trainer.resume(out).train()
    Trainer(config, tmp_path / "straight").train()
    for name in ("model", "ema", "optimizer", "carry"):
        files = [p / "checkpoints" / "step_40" / f"{name}.safetensors" for p in (out, tmp_path / "straight")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_second_signal_interrupts_at_once(tmp_path: Path) -> None:
    def insist() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Trainer(run_config(), tmp_path / "run", callbacks=[Recording(13, insist)]).train()
    assert checkpoint.saved_steps(tmp_path / "run") == [10]


def test_a_run_stops_when_its_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(Callback):
        def on_step(self, step: int) -> None:
            now[0] += 12.0

    summary = Trainer(run_config(eval_every=0), tmp_path / "run", callbacks=[Slow()]).train(minutes=1)
    assert summary["steps"] == 5
    assert not summary["interrupted"]
    assert summary["evaluation"]["count"] > 0
    assert checkpoint.saved_steps(tmp_path / "run") == [5]


def test_a_run_stops_when_its_training_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, now, one_step = tmp_path / "run", [0.0], Trainer._one_step

    def slow_step(self: Trainer) -> None:
        now[0] += 3.0
        one_step(self)

    class SlowEvaluation(Callback):
        def on_evaluation(self, done: int, count: int) -> None:
            now[0] += 100.0

    def clock() -> float:
        return now[0]

    monkeypatch.setattr(Trainer, "_one_step", slow_step)
    trainer = Trainer(run_config(eval_every=2), out, callbacks=[SlowEvaluation()])
    summary = trainer.train(training_seconds=15, clock=clock)
    assert (summary["steps"], summary["seconds"]) == (5, 15.0)
    for _ in range(2):  # the time before a resume counts too, so the second resume trains no step
        resumed = Trainer.resume(out, callbacks=[SlowEvaluation()]).train(training_seconds=21, clock=clock)
        assert (resumed["steps"], resumed["seconds"], resumed["interrupted"]) == (7, 21.0, False)
        assert resumed["evaluation"]["count"] > 0


def test_a_finished_run_gains_no_time(tmp_path: Path) -> None:
    out, seconds = tmp_path / "run", itertools.count()  # a clock that advances by a second whenever it is read
    Trainer(run_config(), out).train(clock=lambda: float(next(seconds)))
    metrics = (out / "metrics.jsonl").read_text()
    Trainer.resume(out).train(clock=lambda: float(next(seconds)))
    assert (out / "metrics.jsonl").read_text() == metrics


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(run_config(), out, callbacks=[KillAt(18)]).train()
    assert [r["step"] for r in read_metrics(out)] == [4, 8, 12, 15, 16]
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 20, "lo')
    assert [r["step"] for r in read_metrics(out)] == [4, 8, 12, 15, 16]
    Trainer.resume(out)
    assert [r["step"] for r in read_metrics(out)] == [4, 8]
    assert (out / "metrics.jsonl").read_text().endswith("}\n")


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", '{"step": "4"}', ""])
def test_damaged_metrics_are_located(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not .*; remove the line"):
        read_metrics(tmp_path)
    assert read_metrics(tmp_path / "elsewhere") == []


def test_a_full_disk_ends_the_run_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"

    def fill() -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_tensors", full)

    with pytest.raises(UserError, match=r"No space left.*step_10 is intact: free some space, then --resume"):
        Trainer(run_config(), out, callbacks=[Recording(12, fill)]).train()
    monkeypatch.undo()
    Trainer.resume(out).train()
    assert checkpoint.saved_steps(out)[-1] == 40


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create"):
        Trainer(run_config(), tmp_path / "file" / "run")


def test_a_run_without_test_examples_has_no_evaluation(tmp_path: Path) -> None:
    trainer = Trainer(run_config(steps=6, eval_every=2), tmp_path / "run")
    trainer.dataset = type(trainer.dataset)(trainer.dataset.train, trainer.dataset.test.take(slice(0)), "none")
    summary = trainer.train()
    assert summary["evaluation"] is None
    assert (tmp_path / "run" / "model").is_dir()


def losses(backend: str, out: Path) -> list[float]:
    model = {"hidden_size": 32, "num_layers": 2, "max_supervision_steps": 8}
    training = {"steps": 50, "batch_size": 16, "warmup_steps": 10, "learning_rate": 4e-3, "log_every": 5}
    training["dtype"] = "float32"
    with ops.use_backend(backend):
        Trainer(run_config(model, **training, eval_every=0), out).train()
    return [r["loss"] for r in read_metrics(out) if "loss" in r]


def test_kernels_learn_like_the_reference(tmp_path: Path) -> None:
    want, got = (losses(backend, tmp_path / backend) for backend in ("reference", "auto"))
    assert want[-1] < 0.8 * want[0]
    assert np.allclose(got[:2], want[:2], rtol=1e-3)
    assert np.allclose(got, want, rtol=0.05)


def test_seconds_count_all_training_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Emulates a device that takes a second per step and computes the steps when the host waits."""
    now, pending = [0.0], [0]
    run, solve = TrainStep.run, Solver.run

    def sent(self: TrainStep, *arguments: Any) -> None:
        pending[0] += 1
        run(self, *arguments)

    def wait(self: TrainStep) -> None:
        now[0] += pending[0]
        pending[0] = 0

    def solved(self: Solver, *arguments: Any, **options: Any) -> Any:
        now[0] += 100
        return solve(self, *arguments, **options)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(TrainStep, "run", sent)
    monkeypatch.setattr(TrainStep, "wait", wait)
    monkeypatch.setattr(Solver, "run", solved)
    summary = Trainer(run_config(steps=11, eval_every=4, checkpoint_every=6), tmp_path / "run").train()
    assert summary["seconds"] == 11
    assert now[0] == 311
    resumed = Trainer.resume(tmp_path / "run", config=run_config(steps=30, eval_every=0, checkpoint_every=100))
    assert resumed.train(minutes=1e-9)["seconds"] == 11, "the time is up before the first step"


def test_training_from_easy_to_hard_needs_a_known_difficulty(tmp_path: Path) -> None:
    config = make_config({**SECTIONS, "task": {"name": "copy"}, "training": {"easy_first": 5}}, "test")
    with pytest.raises(UserError, match="easy_first: the difficulty of the training data is unknown"):
        Trainer(config, tmp_path / "run")
