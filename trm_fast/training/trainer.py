"""The trainer: builds a run from its configuration, steps it, logs, evaluates, saves, and takes it up again exactly."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from trm_fast.errors import UserError
from trm_fast.inference import Evaluation
from trm_fast.inference.capture import Fallback, runner_for
from trm_fast.models import TRMModel
from trm_fast.models.saving import save_model
from trm_fast.nn import fp8
from trm_fast.tasks.base import Dataset
from trm_fast.training import checkpoint
from trm_fast.training.callbacks import Callback, Callbacks, Run, make_callback
from trm_fast.training.config import RunConfig
from trm_fast.training.evaluation import Evaluator, averaged_model
from trm_fast.training.feed import Feed
from trm_fast.training.folder import CONFIG, MODEL, SUMMARY, Record, cut_metrics, read_run_config, write_text
from trm_fast.training.memory import bytes_per_row, parts_that_fit
from trm_fast.training.process_group import ALONE, ProcessGroup
from trm_fast.training.signals import stop_on_signal
from trm_fast.training.state import restore, tensor_groups
from trm_fast.training.step import TrainStep
from trm_fast.training.transfer import transfer


class Trainer:
    """One run in one folder. ``Trainer(config, out).train()`` starts it, ``Trainer.resume(out).train()`` continues it.

    A resumed run is bitwise the run that was never stopped (on a CPU): weights, average, optimizer, carry, random
    numbers and metrics. ``train`` returns the summary that it also writes to ``summary.json``.

    ``callbacks`` hear of the run as it goes (``trm_fast.training.callbacks``), besides ``metrics.jsonl``. The processes
    of a ``group`` each make a trainer of the same run and call it alike; one of them writes, and has the callbacks.
    """

    def __init__(
        self,
        config: RunConfig,
        out: str | os.PathLike[str],
        *,
        device: str = "cpu",
        callbacks: Sequence[Callback] = (),
        group: ProcessGroup = ALONE,
        init: TRMModel | None = None,
        resumed: tuple[checkpoint.Groups, Record] | None = None,
    ) -> None:
        """``init``: a model whose weights the run starts from, where they fit (``transfer`` says which do).
        ``resumed``: what ``resume`` has read."""
        self.out, self.config, self.group = Path(out), config, group
        if resumed is None and any(group.gather_objects(_holds_run(self.out))):
            raise UserError(
                f"{self.out} holds a run already: continue with --resume {self.out}, or choose another --out"
            )
        groups, state = resumed or ({}, {})
        self.callbacks = Callbacks([make_callback("json_lines"), *callbacks] if group.writes else [])
        training, seed = config.training, config.training.seed
        self.task = config.make_task()
        self.dataset: Dataset = self.task.dataset(config.data, seed)
        if not len(self.dataset.train):
            raise UserError(f"there is nothing to train on: {self.dataset.source} has no training rows")
        for line in self.dataset.notes:
            self.callbacks.on_note(line)
        if (place := torch.device(device)).type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)  # streams and events are those of the current device
        torch.manual_seed(seed)  # the same weights everywhere
        self.model = TRMModel(config.model, config.compute_dtype(torch.device(device))).to(device)
        if training.no_grad_dtype == "fp8" and (why := fp8.unsupported_reason(torch.device(device))):
            raise UserError(f"training.no_grad_dtype = fp8: {why}", wrong_use=True)
        if init is not None:
            for line in transfer(init, self.model, "the model"):
                self.callbacks.on_note(line)
        self.optimizer = training.make_optimizer(self.model)
        self.feed = Feed(self.task, self.dataset.train, seed, training.batch_size)
        if group.rank:
            torch.manual_seed(seed ^ group.rank << 32)  # and other dropout
        runner = runner_for(torch.device(device), training.graph == "auto")
        parts = self._parts(state.get("parts", 1))  # of the whole model
        try:
            self.step_function = TrainStep(
                self.model, self.optimizer, training, self.feed, parts=parts, runner=runner, group=group,
                depth=config.depth_at(state.get("step", 0) + 1),
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"a step needs more memory than {device} has ({str(error).splitlines()[0]}): try --set "
                "training.recompute=latent, or a larger training.gradient_accumulation"
            ) from None
        self._say_reason()
        self.step, self.seconds, self.best = 0, 0.0, None
        self.evaluator = Evaluator(self.step_function, self.task, self.dataset.test, group)
        self._saved: int | None = None  # the step whose checkpoint this object wrote or read
        if state:
            self._restore(groups, state)
        group.gather_objects(None)  # nothing is written before all have read
        if group.writes:
            if resumed is not None:
                cut_metrics(self.out, self.step, training)
            write_text(self.out / CONFIG, config.to_yaml())
            if resumed is None:
                self.task.save_assets(self.out)
        if init is not None:
            self.save()  # a run that is killed before its first checkpoint must not resume from random weights

    def _say_reason(self) -> None:
        runner = self.step_function.runner
        if isinstance(runner, Fallback) and runner.reason:
            self.callbacks.on_note(f"the step runs without a CUDA graph, which could not be captured: {runner.reason}")

    best: Record | None
    """Step and accuracy of the best evaluation so far."""

    def _parts(self, before: int) -> int:
        """``before``: parts of a run that is resumed. Fewer would change its rounding, so it keeps them."""
        asked, batch = self.config.training.gradient_accumulation, self.config.training.batch_size // self.group.size
        if asked != "auto":
            return min(asked, batch)
        recompute = self.config.training.recompute == "latent"
        row_bytes = bytes_per_row(self.model, self.feed.example_spec, recompute=recompute)
        fit = parts_that_fit(batch, row_bytes, self.model.z_init.device)
        parts = max(self.group.gather_objects(max(before, fit)))
        if parts > 1:
            self.callbacks.on_note(
                f"a batch of {batch} needs about {row_bytes * batch / 2**30:.0f} GiB at once: it is computed in "
                f"{parts} parts of {-(-batch // parts)} rows, with the same result up to rounding"
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
        callbacks: Sequence[Callback] = (),
        group: ProcessGroup = ALONE,
    ) -> Trainer:
        """The run of a folder at its newest checkpoint, or at ``from_step``; ``config`` replaces the run's own."""
        run = Path(out)
        config = config or read_run_config(run)
        fresh = from_step is None and not checkpoint.steps_of(run)  # stopped before its first checkpoint
        resumed = ({}, {}) if fresh else checkpoint.load(run, from_step)
        return cls(config, run, device=device, callbacks=callbacks, group=group, resumed=resumed)

    def train(self, *, minutes: float | None = None) -> Record:
        """Trains to ``training.steps`` in all, or until ``minutes`` are over; evaluates, saves, returns the summary.

        Ctrl-C and SIGTERM end the run after the step it is in, with a checkpoint.
        """
        summary: Record | None = None
        try:
            self.callbacks.on_start(self._described())
            summary = self._train(minutes)
        finally:
            self.callbacks.on_end(summary)
        return summary

    def _described(self) -> Run:
        data, noun = self.dataset, self.task.noun
        counts = self.model.num_parameters(), len(data.train), len(data.test)
        return Run(self.out, self.config, self.step, self.seconds, *counts, source=data.source, noun=noun)

    def _train(self, minutes: float | None) -> Record:
        training = self.config.training
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        evaluation: Evaluation | None = None
        with stop_on_signal() as stopped:
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
                self.callbacks.on_step(self.step)
                if tests:
                    evaluation = self._evaluate_and_log()
                if saves:
                    self.save()
                if tests or saves:
                    clock = time.perf_counter()  # the rate is that of training alone
            self.step_function.wait()
            self.seconds += time.perf_counter() - clock
            interrupted = any(self.group.gather_objects(stopped.is_set())) and self.step < training.steps
            if not interrupted and evaluation is None and len(self.dataset.test):
                evaluation = self._evaluate_and_log()
            if self._saved != self.step:
                self.save()
        if not interrupted and self.group.writes:
            save_model(self.averaged_model(), self.out / MODEL, task=self.config.task.model_dump(mode="json"))
            self.task.save_assets(self.out / MODEL)
        return self._summarise(evaluation, interrupted)

    def _one_step(self) -> None:
        training, number = self.config.training, self.step + 1
        if training.depth and (depth := self.config.depth_at(number)) != self.step_function.depth:
            self.step_function.set_depth(depth)
            self.evaluator.depth_changed()
            self._say_reason()
        most = self.step_function.depth.max_supervision_steps
        minimum = self.feed.minimum_steps(number, training.batch_size, training.exploration, most)
        self.step_function.run(training.learning_rate_at(number), minimum)
        self.step = number

    def _over(self, stopped: bool, deadline: float) -> bool:
        """Whether to end before the next step. Several processes ask each other only where they wait anyway."""
        if self.group.size > 1 and self.step % self.config.training.log_every:
            return False
        return any(self.group.gather_objects(stopped or time.monotonic() >= deadline))

    def _log(self) -> None:
        totals = self.step_function.read_totals()
        self._check_loss(totals)
        rows, finished = totals["rows"], totals["finished"]

        def per_finished(name: str) -> float | None:
            return totals[name] / finished if finished else None

        self.callbacks.on_log({
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
        """The averaged weights on test examples, halting as the solver does."""
        return self.evaluator(self.step, self.callbacks.on_evaluation)

    def _evaluate_and_log(self) -> Evaluation:
        result = self.evaluate()
        # Early evaluations are small: the lower end of the interval keeps a lucky few from being the best for good.
        if self.best is None or result.interval[0] >= self.best["at_least"]:
            self.best = {"step": self.step, "exact_accuracy": result.exact_accuracy, "at_least": result.interval[0]}
        named = {f"eval_{k}": v for k, v in result.to_json().items() if k not in ("seconds", "puzzles_per_second")}
        self.callbacks.on_log({"step": self.step, **named, "seconds": round(self.seconds, 3)})
        return result

    def averaged_model(self) -> TRMModel:
        """A model that shares the averaged weights (or the weights, without an average) and all buffers."""
        return averaged_model(self.step_function)

    def save(self) -> Path:
        """Writes a checkpoint of this step and removes those no longer kept."""
        totals = self.step_function.peek_totals()
        self._check_loss(totals)
        groups = tensor_groups(self.step_function, totals, self.group)
        self._saved = self.step
        if self.group.writes:
            state = {"seconds": self.seconds, "best": self.best, "parts": len(self.step_function.parts)}
            checkpoint.save(self.out, self.step, groups, state)
            best = self.best["step"] if self.best else None
            checkpoint.prune(self.out, self.step, self.config.training.keep_checkpoints, best)
        return checkpoint.path_of(self.out, self.step)

    def _restore(self, groups: checkpoint.Groups, state: Record) -> None:
        try:
            restore(self.step_function, groups, self.group)
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self._saved = self.step
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise UserError(f"the checkpoint does not fit {self.out / CONFIG}: {text}") from None

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
        if self.group.writes:
            write_text(self.out / SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary


def _holds_run(folder: Path) -> bool:
    return (folder / CONFIG).exists() or bool(checkpoint.steps_of(folder))
