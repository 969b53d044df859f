"""The trainer: builds a run from its configuration, steps it, logs, evaluates, saves, and takes it up again exactly."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.inference import Evaluation, Solved, Solver, score
from trm_fast.inference.solver import DEFAULT_STEPS
from trm_fast.models import TRMModel
from trm_fast.models.saving import save_model
from trm_fast.nn import fp8
from trm_fast.tasks.base import Dataset
from trm_fast.training import checkpoint
from trm_fast.training.capture import Fallback, runner_for
from trm_fast.training.config import RunConfig
from trm_fast.training.feed import Feed
from trm_fast.training.folder import CONFIG, MODEL, SUMMARY, Record, RunFolder, read_run_config
from trm_fast.training.memory import bytes_per_row, parts_that_fit
from trm_fast.training.reporter import Reporter, Silent, asked_to_stop
from trm_fast.training.rng import random_state, set_random_state
from trm_fast.training.step import TrainStep
from trm_fast.training.transfer import transfer
from trm_fast.training.world import ALONE, World


class Trainer:
    """One run in one folder. ``Trainer(config, out).train()`` starts it, ``Trainer.resume(out).train()`` goes on.

    A resumed run is bitwise the run that was never stopped (on a CPU): weights, average, optimizer, carry, random
    numbers and metrics. ``train`` returns the summary that it also writes to ``summary.json``.

    The processes of a ``world`` each make a trainer of the same run and call it alike; one of them writes.
    """

    def __init__(
        self,
        config: RunConfig,
        out: str | os.PathLike[str],
        *,
        device: str = "cpu",
        reporter: Reporter | None = None,
        world: World = ALONE,
        init: TRMModel | None = None,
    ) -> None:
        """``init``: a model whose weights the run starts from, where they fit (``transfer`` says which do)."""
        self.out = Path(out)
        if any(world.objects((self.out / CONFIG).exists() or bool(checkpoint.steps_of(self.out)))):
            raise UserError(f"{self.out} holds a run already: go on with --resume {self.out}, or choose another --out")
        self._build(config, device, reporter or Silent(), world, init=init)
        self.folder.write(CONFIG, config.to_yaml())
        if world.writes:
            self.task.save_assets(self.out)
        if init is not None:
            self.save()  # a run that is killed before its first checkpoint must not resume from random weights

    def _build(
        self,
        config: RunConfig,
        device: str,
        reporter: Reporter,
        world: World,
        parts: int = 1,
        init: TRMModel | None = None,
        step: int = 0,
    ) -> None:
        self.config, self.reporter, self.world = config, reporter, world
        self.folder = RunFolder(self.out, world.writes)
        training, seed = config.training, config.training.seed
        self.task = config.make_task()
        self.dataset: Dataset = self.task.dataset(config.data, seed)
        if not len(self.dataset.train):
            raise UserError(f"there is nothing to train on: {self.dataset.source} has no training rows")
        for line in self.dataset.notes:
            reporter.note(line)
        if (place := torch.device(device)).type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)  # streams and events are those of the current device
        torch.manual_seed(seed)  # the same weights everywhere
        self.model = TRMModel(config.model, config.compute_dtype(torch.device(device))).to(device)
        if training.no_grad_dtype == "fp8" and (why := fp8.unsupported_reason(torch.device(device))):
            raise UserError(f"training.no_grad_dtype = fp8: {why}", wrong_use=True)
        if init is not None:
            for line in transfer(init, self.model, "the model"):
                reporter.note(line)
        self.optimizer = training.make_optimizer(self.model)
        self.feed = Feed(self.task, self.dataset.train, seed, training.batch_size)
        if world.rank:
            torch.manual_seed(seed ^ world.rank << 32)  # and other dropout
        runner = runner_for(torch.device(device), training.graph == "auto")
        parts = self._parts(parts)  # of the whole model
        try:
            self.step_function = TrainStep(
                self.model, self.optimizer, training, self.feed, parts=parts, runner=runner, world=world,
                depth=config.model_at(step + 1).depth,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"a step needs more memory than {device} has ({str(error).splitlines()[0]}): try --set "
                "training.recompute=latent, or a larger training.gradient_accumulation"
            ) from None
        self._say_reason()
        self.step, self.seconds, self.best = 0, 0.0, None
        self._average: TRMModel | None = None
        self._saved: int | None = None  # the step whose checkpoint this object wrote or read
        self._names = [name for name, _ in self.model.named_parameters()]
        self._device = self.model.z_init.device

    def _say_reason(self) -> None:
        runner = self.step_function.runner
        if isinstance(runner, Fallback) and runner.reason:
            self.reporter.note(f"the step runs without a CUDA graph, which could not be captured: {runner.reason}")

    best: Record | None
    """Step and accuracy of the best evaluation so far."""

    def _parts(self, before: int) -> int:
        """``before``: parts of a run that goes on. Fewer would change its rounding, so it keeps them."""
        asked, batch = self.config.training.gradient_accumulation, self.config.training.batch_size // self.world.size
        if asked != "auto":
            return min(asked, batch)
        recompute = self.config.training.recompute == "latent"
        fit = parts_that_fit(self.model, batch, self.feed.kind, recompute=recompute)
        parts = max(self.world.objects(max(before, fit)))
        if parts > 1:
            need = bytes_per_row(self.model, self.feed.kind, recompute=recompute) * batch / 2**30
            self.reporter.note(
                f"a batch of {batch} needs about {need:.0f} GiB at once: it is computed in {parts} parts of "
                f"{-(-batch // parts)} rows, with the same result up to rounding"
            )
        return parts

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        *,
        from_step: int | None = None,
        config: RunConfig | None = None,
        device: str = "cpu",
        reporter: Reporter | None = None,
        world: World = ALONE,
    ) -> Trainer:
        """The run of a folder at its newest checkpoint, or at ``from_step``; ``config`` replaces the run's own."""
        run = Path(out)
        config = config or read_run_config(run)
        fresh = from_step is None and not checkpoint.steps_of(run)  # stopped before its first checkpoint
        groups, state = ({}, {}) if fresh else checkpoint.load(run, from_step)
        self = cls.__new__(cls)
        self.out = run
        self._build(config, device, reporter or Silent(), world, state.get("parts", 1), step=state.get("step", 0))
        if not fresh:
            self._restore(groups, state)
        world.objects(None)  # nothing is written before all have read
        self.folder.cut_metrics(self.step, config.training)
        self.folder.write(CONFIG, config.to_yaml())
        return self

    def train(self, *, minutes: float | None = None) -> Record:
        """Trains to ``training.steps`` in all, or until ``minutes`` are over; evaluates, saves, returns the summary.

        Ctrl-C and SIGTERM end the run after the step it is in, with a checkpoint.
        """
        training = self.config.training
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        evaluation: Evaluation | None = None
        with asked_to_stop() as stopped:
            clock = time.perf_counter()
            while self.step < training.steps and not self._over(stopped.is_set(), deadline):
                self._one_step()
                evaluation = None
                last, saves = self.step == training.steps, self.step % training.checkpoint_every == 0
                due = training.eval_every and self.step % training.eval_every == 0
                tests = len(self.dataset.test) and (last or due)
                if tests or saves:
                    self.step_function.wait()  # a GPU is some steps behind: their time is training's
                now = time.perf_counter()
                self.seconds, clock = self.seconds + now - clock, now
                if last or self.step % training.log_every == 0:
                    self._log()
                self.reporter.stepped(self.step)
                if tests:
                    evaluation = self._evaluate_and_log()
                if saves:
                    self.save()
                if tests or saves:
                    clock = time.perf_counter()  # the rate is that of training alone
            self.step_function.wait()
            self.seconds += time.perf_counter() - clock
            interrupted = any(self.world.objects(stopped.is_set())) and self.step < training.steps
            if not interrupted and evaluation is None and len(self.dataset.test):
                evaluation = self._evaluate_and_log()
            if self._saved != self.step:
                self.save()
        if not interrupted and self.world.writes:
            save_model(self.averaged_model(), self.out / MODEL, task=self.config.task.model_dump(mode="json"))
            self.task.save_assets(self.out / MODEL)
        return self._summarise(evaluation, interrupted)

    def _one_step(self) -> None:
        training, number = self.config.training, self.step + 1
        if training.depth and (depth := self.config.model_at(number).depth) != self.step_function.depth:
            self.step_function.set_depth(depth)
            self._average = None  # its graphs are of the old depth
            self._say_reason()
        most = self.step_function.depth.max_supervision_steps
        minimum = self.feed.minimum_steps(number, training.batch_size, training.exploration, most)
        self.step_function.run(training.learning_rate_at(number), minimum)
        self.step = number

    def _over(self, stopped: bool, deadline: float) -> bool:
        """Whether to end before the next step. Several processes ask each other only where they wait anyway."""
        if self.world.size > 1 and self.step % self.config.training.log_every:
            return False
        return any(self.world.objects(stopped or time.monotonic() >= deadline))

    def _log(self) -> None:
        totals = self.step_function.read_totals()
        self._check_loss(totals)
        rows, finished = totals["rows"], totals["finished"]

        def per_finished(name: str) -> float | None:
            return totals[name] / finished if finished else None

        self._record({
            "step": self.step,
            "sample_steps": self.step * self.config.training.batch_size,
            "loss": totals["loss"] / rows,
            "answer_loss": totals["answer_loss"] / rows,
            "halting_loss": totals["halting_loss"] / rows,
            "exact_accuracy": per_finished("exact"),
            "cell_accuracy": per_finished("cells"),
            "halting_accuracy": per_finished("q_right"),
            "mean_steps": per_finished("steps"),
            "finished": int(finished),
            "learning_rate": self.config.training.learning_rate_at(self.step),
            **({"depth": self.config.model_at(self.step).effective_depth} if self.config.training.depth else {}),
            "seconds": round(self.seconds, 3),
        })  # fmt: skip

    def _check_loss(self, totals: dict[str, float]) -> None:
        """A run that has broken down ends here, before its weights push good checkpoints out."""
        if not all(math.isfinite(total) for total in totals.values()):
            kept = checkpoint.steps_of(self.out)
            back = f"; step_{kept[-1]} is from before" if kept else ""
            raise UserError(f"the loss is not finite after step {self.step}: the learning rate is too large?{back}")

    def evaluate(self) -> Evaluation:
        """The averaged weights on test examples, halting as the solver does: ``eval_count`` of them, but never more
        work than the training before it, so that a try of a few steps of a large model is over when they are."""
        training, world = self.config.training, self.world
        affordable = self.step * training.batch_size // DEFAULT_STEPS
        count = min(training.eval_count, max(1, affordable))
        examples = self.dataset.test.take(slice(count))
        if self._average is None:  # kept, with the graphs of its steps: it shares the averaged weights' memory
            self._average = self.averaged_model()
        solver = Solver(self._average, self.task, graph=training.graph == "auto")
        if self.model.z_init.is_cuda:  # what fits in training fits here
            solver = replace(solver, batch_size=max(solver.batch_size, training.batch_size // world.size))
        start = time.perf_counter()
        share = examples.take(world.part(len(examples)))
        mine = solver.run(share, progress=self.reporter.evaluating) if len(share) else None
        solved = Solved.joined([part for part in world.objects(mine) if part is not None])
        return score(solver, examples, solved, time.perf_counter() - start)

    def _evaluate_and_log(self) -> Evaluation:
        result = self.evaluate()
        # Early evaluations are small: the lower end of the interval keeps a lucky few from being the best for good.
        if self.best is None or result.interval[0] >= self.best["at_least"]:
            self.best = {"step": self.step, "exact_accuracy": result.exact_accuracy, "at_least": result.interval[0]}
        named = {f"eval_{k}": v for k, v in result.to_json().items() if k not in ("seconds", "puzzles_per_second")}
        self._record({"step": self.step, **named, "seconds": round(self.seconds, 3)})
        return result

    def averaged_model(self) -> TRMModel:
        """A model that shares the averaged weights (or the weights, without an average) and all buffers.

        In a curriculum it is as deep as the step that trained it last."""
        with torch.random.fork_rng(devices=[]):  # evaluating more often must not change dropout
            model = TRMModel(self.config.model_at(self.step), self.model.compute_dtype).to(self.model.z_init.device)
        model.load_state_dict(self._averaged_tensors(), assign=True)
        return model.requires_grad_(False).eval()

    def _averaged_tensors(self) -> dict[str, Tensor]:
        tensors = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        return tensors | dict(zip(self._names, self.optimizer.averaged, strict=True))

    def save(self) -> Path:
        """Writes a checkpoint of this step and removes those no longer kept."""
        step, world = self.step_function, self.world
        totals = step.peek_totals()
        self._check_loss(totals)
        groups = {
            "model": self.model.state_dict(),
            # Puzzle rows have no average, and they may be gigabytes: they are written once.
            "ema": {name: t for name, t in self._averaged_tensors().items() if name != "puzzle_embedding"},
            "optimizer": self.optimizer.named_tensors(self._names),
            "carry": {
                **{name: world.gather(tensor) for name, tensor in step.carry.tensors().items()},
                "totals": torch.tensor(list(totals.values()), dtype=torch.float64),
                "taken": step.pool.taken,
                **{f"rng_{i}": states for i, states in enumerate(world.objects(random_state(self._device)))},
            },
        }
        self._saved = self.step
        path = checkpoint.path_of(self.out, self.step)
        if not world.writes:
            return path
        state = {"seconds": self.seconds, "best": self.best, "parts": len(step.slices)}
        checkpoint.save(self.out, self.step, groups, state)
        best = self.best["step"] if self.best else None
        checkpoint.prune(self.out, self.step, self.config.training.keep_checkpoints, best)
        return path

    def _restore(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(groups["model"])
            step, world, saved = self.step_function, self.world, groups["carry"]
            if len(saved["steps"]) != self.config.training.batch_size:
                raise ValueError(f"it is of batch_size {len(saved['steps'])}")
            mine = {name: saved[name][step.mine] for name in step.carry.tensors()}
            pairs = [(step.carry.tensors(), mine), (self.optimizer.named_tensors(self._names), groups["optimizer"])]
            pairs.append(({"taken": step.pool.taken}, saved))
            if world.writes:
                pairs.append(({"totals": step.totals}, saved))
            if self.optimizer.ema is not None:
                pairs.append((dict(zip(self._names, self.optimizer.ema, strict=True)), groups["ema"]))
            for wanted, found in pairs:
                for name, tensor in wanted.items():
                    if found[name].shape != tensor.shape:
                        raise ValueError(f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}")
                    tensor.copy_(found[name])
            if f"rng_{world.rank}" in saved:  # not where more processes go on than there were
                set_random_state(self._device, saved[f"rng_{world.rank}"])
            step.pool.restart()
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self._saved = self.step
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise UserError(f"the checkpoint does not fit {self.out / CONFIG}: {text}") from None

    def _record(self, record: Record) -> None:
        self.folder.record(record)
        if self.world.writes:
            self.reporter.logged(record)

    def _summarise(self, evaluation: Evaluation | None, interrupted: bool) -> Record:
        sample_steps = self.step * self.config.training.batch_size
        summary: Record = {
            "task": self.task.name,
            "data": self.dataset.source,
            "steps": self.step,
            "sample_steps": sample_steps,
            "seconds": round(self.seconds, 1),
            "sample_steps_per_second": round(sample_steps / self.seconds, 1) if self.seconds else None,
            "parameters": self.model.num_parameters(),
            "interrupted": interrupted,
            "evaluation": evaluation.to_json() if evaluation else None,
            "best": self.best,
        }
        self.folder.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary
