"""The trainer: builds a run from its configuration, trains, logs, evaluates, saves and resumes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trm_fast.errors import UserError
from trm_fast.inference import Evaluation
from trm_fast.inference.capture import Fallback, runner_for
from trm_fast.models import TRMModel
from trm_fast.nn import fp8
from trm_fast.run_folder import BEST, CONFIG, MODEL, SUMMARY, unused_folder
from trm_fast.tasks.files import write_text
from trm_fast.texts import json_text
from trm_fast.training import checkpoint
from trm_fast.training.callbacks import Callback, Callbacks, Run, make_callback
from trm_fast.training.config import RunConfig
from trm_fast.training.estimate import check_run
from trm_fast.training.evaluation import Evaluator, averaged_model
from trm_fast.training.feed import Feed
from trm_fast.training.folder import Record, cut_metrics, read_run_config
from trm_fast.training.lock import RunLock
from trm_fast.training.memory import bytes_per_row, parts_that_fit
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup
from trm_fast.training.read_config import preset_config
from trm_fast.training.records import training_record
from trm_fast.training.run_data import load_run_data
from trm_fast.training.signals import Stop, stop_on_signal
from trm_fast.training.state import restore, run_dtype, stored_dtype, tensor_groups
from trm_fast.training.step import TrainStep
from trm_fast.training.transfer import transfer


class LossNotFinite(UserError):
    """Training diverged."""


NOT_LOGGED = ("seconds", "puzzles_per_second", "coverage", "answered_accuracy")
"""Parts of an evaluation that training does not log: times, and what only a condition on answers changes."""


class Trainer:
    """A run in its folder. ``Trainer(config, out).train()`` starts it, ``Trainer.resume(out).train()`` continues it.

    On a CPU a resumed run equals the uninterrupted run bit for bit: weights, average, optimizer, carry, random numbers
    and metrics.

    Args:
        config: task, data, model and training.
        out: the run folder, which must not hold a run yet.
        device: a torch device, such as ``cpu`` or ``cuda:0``.
        callbacks: called during the run (``trm_fast.training.callbacks``). ``metrics.jsonl`` is always written.
        group: the processes that train together. Each creates a trainer of the same run and makes the same calls. Only
            the first one writes files and calls the callbacks.
        init: a model whose weights are copied if they fit (``transfer``). Notes list those that do not.
        resumed: the contents of a checkpoint, for ``resume``.

    Raises:
        UserError: the folder holds a run or another process trains in it, there is no training data, or a step needs
            more memory than there is.
    """

    def __init__(
        self,
        config: RunConfig,
        out: str | os.PathLike[str],
        *,
        device: str = "cpu",
        callbacks: Sequence[Callback] = (),
        group: ProcessGroup = SINGLE_PROCESS,
        init: TRMModel | None = None,
        resumed: tuple[checkpoint.Groups, Record] | None = None,
    ) -> None:
        self.out, self.group = Path(out), group
        exists = any(group.gather_objects(self.out.is_dir()))
        lock = RunLock(self.out, group, new=resumed is None) if exists else None
        groups, state = resumed or ({}, {})
        self.callbacks = Callbacks([make_callback("json_lines"), *callbacks] if group.writes else [])
        training, seed = config.training, config.training.seed
        self.task = config.make_task()
        trained = getattr(init, "task", None)
        self.config, self.dataset = load_run_data(config, self.task, group, new=resumed is None, trained=trained)
        for line in self.dataset.notes:
            self.callbacks.on_note(line)
        if (target := torch.device(device)).type == "cuda" and target.index is not None:
            torch.cuda.set_device(target)  # streams and events belong to the current device
        check_run(config, self.dataset.train.take(slice(0)), target, group.size)
        torch.manual_seed(seed)  # all processes start with the same weights
        self.model = TRMModel(config.model, run_dtype(config, target, state, group)).to(device)
        if training.no_grad_dtype == "fp8" and (reason := fp8.unsupported_reason(torch.device(device))):
            raise UserError(f"training.no_grad_dtype = fp8: {reason}", usage_error=True)
        if init is not None:
            for line in transfer(init, self.model, "the model"):
                self.callbacks.on_note(line)
        self.optimizer = training.make_optimizer(self.model)
        if training.easy_first and self.dataset.difficulty is None:
            raise UserError(
                f"training.easy_first: the difficulty of the training data is unknown ({self.dataset.source})",
                usage_error=True,
            )
        self.feed = Feed(
            self.task, self.dataset.train, seed, training.batch_size, difficulty=self.dataset.difficulty,
            easy_first=training.easy_first,
        )  # fmt: skip
        if group.rank:
            torch.manual_seed(seed ^ group.rank << 32)  # each process has its own random numbers for dropout
        runner = runner_for(torch.device(device), training.graph == "auto")
        parts = self._parts(state.get("parts", 1))  # measured at the model's full depth
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
        self._note_fallback()
        self.step, self.seconds, self.best, self._evaluation_due = 0, 0.0, None, False
        self.evaluator = Evaluator(self.step_function, self.task, self.dataset.test, group)
        self._saved_step: int | None = None  # the step of the last checkpoint that was written or read
        if state:
            self._restore(groups, state)
        self._lock = lock or RunLock(self.out, group, new=resumed is None)
        group.gather_objects(None)  # no process writes before all have read the checkpoint
        if group.writes:
            if resumed is not None:
                cut_metrics(self.out, self.step, training)
            else:
                self.task.save_assets(self.out)
            write_text(self.out / CONFIG, self.config.to_yaml())  # last, because it makes the folder a run
        if init is not None:
            self.save()  # a run killed before its first checkpoint would resume from random weights

    def _note_fallback(self) -> None:
        if isinstance(runner := self.step_function.runner, Fallback) and runner.reason:
            self.callbacks.on_note(f"the step runs without a CUDA graph, which could not be captured: {runner.reason}")

    best: Record | None
    """The best evaluation so far: ``step``, ``exact_accuracy``, and ``at_least``, the lower bound of its interval."""

    def _parts(self, previous: int) -> int:
        """The number of parts of a batch. A resumed run has at least the ``previous`` number, because fewer would round
        differently."""
        training = self.config.training
        accumulation, batch = training.gradient_accumulation, training.batch_size // self.group.size
        if accumulation != "auto":
            return min(accumulation, batch)
        row_bytes = bytes_per_row(self.model, self.feed.example_spec, recompute=training.recompute == "latent")
        fit = parts_that_fit(batch, row_bytes, self.model.z_init.device)
        parts = max(self.group.gather_objects(max(previous, fit)))
        if parts > 1:
            self.callbacks.on_note(
                f"a batch of {batch} needs about {row_bytes * batch / 2**30:.0f} GiB at once: it is computed in "
                f"{parts} parts of {-(-batch // parts)} rows, with the same result up to rounding"
            )
        return parts

    @classmethod
    def from_preset(
        cls,
        preset: str,
        out: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
        callbacks: Sequence[Callback] = (),
        **changes: Any,
    ) -> Trainer:
        """A run of a preset with other values of some keys, such as ``batch_size=16`` (``preset_config``).

        ``out`` is by default ``runs/PRESET``, or the next free name. ``device`` and ``callbacks`` as in ``Trainer``.
        """
        config = preset_config(preset, **changes)
        return cls(config, out or unused_folder(Path("runs") / preset), device=device, callbacks=callbacks)

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        *,
        from_step: int | None = None,
        config: RunConfig | None = None,
        device: str = "cpu",
        callbacks: Sequence[Callback] = (),
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Trainer:
        """Continues the run of a folder at its newest checkpoint.

        Args:
            out: the run folder.
            from_step: the step of the checkpoint to continue from, by default the newest.
            config: replaces the run's configuration.
            device, callbacks, group: as in ``Trainer``.

        Raises:
            UserError: the folder holds no run or no such checkpoint, or the checkpoint is damaged or does not fit.
        """
        run = Path(out)
        config = config or read_run_config(run)
        lock = RunLock(run, group)  # before the checkpoint is read, which another process could replace
        fresh = from_step is None and not checkpoint.saved_steps(run)  # the run stopped before its first checkpoint
        resumed = ({}, {}) if fresh else checkpoint.load(run, from_step)
        trainer = cls(config, run, device=device, callbacks=callbacks, group=group, resumed=resumed)
        lock.release()  # the trainer has its own
        return trainer

    def train(
        self,
        *,
        minutes: float | None = None,
        training_seconds: float = math.inf,
        clock: Callable[[], float] | None = None,
    ) -> Record:
        """Trains up to step ``training.steps`` or a limit of time, then evaluates and saves.

        Ctrl-C and SIGTERM end the run after the current step, or during an evaluation, with a checkpoint.

        Args:
            minutes: limit of this call, evaluations and checkpoints included.
            training_seconds: limit of the whole run's training time, without evaluations and checkpoints.
            clock: measures the training time in seconds; by default ``time.perf_counter``.

        Returns:
            The summary, which is also written to ``summary.json``.

        Raises:
            LossNotFinite: training diverged.
            UserError: a file can't be written.
        """
        summary: Record | None = None
        lock = RunLock(self.out, self.group)
        try:
            self.callbacks.on_start(self._description())
            summary = self._train(minutes, training_seconds, clock or time.perf_counter)
        finally:
            self.callbacks.on_end(summary)
            lock.release()
            self._lock.release()
        return summary

    def _description(self) -> Run:
        data, noun = self.dataset, self.task.noun
        counts = self.model.num_parameters(), len(data.train), len(data.test)
        return Run(self.out, self.config, self.step, self.seconds, *counts, data.source, noun, self.task.report)

    def _train(self, minutes: float | None, training_seconds: float, read_clock: Callable[[], float]) -> Record:
        training = self.config.training
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        evaluation: Evaluation | None = None
        with stop_on_signal() as stopped:
            if self._evaluation_due:
                evaluation = self._evaluate_and_log(stopped)
                self.save()  # with its result, as in an uninterrupted run
            first, last_time = self.step, read_clock()
            while self.step < training.steps:
                timed_out = time.monotonic() >= deadline or self.seconds >= training_seconds
                if self._should_stop(stopped.is_set() or timed_out):
                    break
                self._one_step()
                evaluation = None
                last, saves = self.step == training.steps, self.step % training.checkpoint_every == 0
                due = training.eval_every and self.step % training.eval_every == 0
                evaluates = len(self.dataset.test) and (last or due)
                if evaluates or saves:
                    self.step_function.wait()  # steps that a GPU is still computing count as training time
                now = read_clock()
                self.seconds, last_time = self.seconds + now - last_time, now
                if last or self.step % training.log_every == 0:
                    self._log()
                self.callbacks.on_step(self.step)
                if evaluates:
                    evaluation = self._evaluate_and_log(stopped)
                if saves:
                    self.save()
                if evaluates or saves:
                    last_time = read_clock()  # evaluating and saving do not count as training time
            self.step_function.wait()
            if self.step > first:  # otherwise the records of a finished run would change
                self.seconds += read_clock() - last_time
            interrupted = any(self.group.gather_objects(stopped.is_set())) and self.step < training.steps
            if not interrupted and evaluation is None and len(self.dataset.test):
                evaluation = self._evaluate_and_log(stopped)
                interrupted = evaluation is None
            if self._saved_step != self.step:
                self.save()
        if not interrupted:
            self.evaluator.save(self.config, self.out / MODEL)
        return self._summarize(evaluation, interrupted)

    def _one_step(self) -> None:
        training, number = self.config.training, self.step + 1
        if training.depth and (depth := self.config.depth_at(number)) != self.step_function.depth:
            self.step_function.set_depth(depth)
            self.evaluator.depth_changed()
            self._note_fallback()
        max_steps = self.step_function.depth.max_supervision_steps
        minimum = self.feed.minimum_steps(number, training.batch_size, training.exploration, max_steps)
        self.step_function.run(training.learning_rate_at(number), minimum)
        self.step = number

    def _should_stop(self, stop: bool) -> bool:
        """Whether any process wants to ``stop`` before the next step. Several processes decide this only at log steps,
        when they wait for each other anyway."""
        if self.group.size > 1 and self.step % self.config.training.log_every:
            return False
        return any(self.group.gather_objects(stop))

    def _log(self) -> None:
        totals = self.step_function.read_totals()
        self._check_loss(totals)
        self.callbacks.on_log(training_record(self.step, totals, self.config, self.seconds))

    def _check_loss(self, totals: dict[str, float]) -> None:
        """Ends a run whose loss is not finite, before its checkpoints replace good ones."""
        if not all(math.isfinite(total) for total in totals.values()):
            steps = checkpoint.saved_steps(self.out)
            hint = f"; --resume {self.out} continues from step_{steps[-1]}" if steps else ""
            raise LossNotFinite(f"the loss is not finite after step {self.step}: try a smaller learning rate{hint}")

    def evaluate(self) -> Evaluation:
        """Evaluates the averaged weights on test examples, with the solver's halting."""
        return self.evaluator(self.step, self.callbacks.on_evaluation)

    def _evaluate_and_log(self, stopped: Stop) -> Evaluation | None:
        """Evaluates, unless a signal stops the run: then a resumed run begins with the evaluation."""
        result = self.evaluator.unless(stopped, self.step, self.callbacks.on_evaluation)
        self._evaluation_due = result is None
        if result is None:
            return None
        # Early evaluations have few examples. Comparing the lower bounds of intervals avoids keeping a lucky one.
        if self.best is None or result.interval[0] >= self.best["at_least"]:
            self.best = {"step": self.step, "exact_accuracy": result.exact_accuracy, "at_least": result.interval[0]}
            if self.config.training.eval_every:
                self.evaluator.save(self.config, self.out / BEST)
        measured = result.to_json() | self.evaluator.losses(self.step)
        named = {f"eval_{k}": v for k, v in measured.items() if k not in NOT_LOGGED}
        self.callbacks.on_log({"step": self.step, **named, "seconds": round(self.seconds, 3)})
        return result

    def averaged_model(self) -> TRMModel:
        """A model that shares the averaged weights (or the weights if there is no average) and all buffers."""
        return averaged_model(self.step_function)

    def save(self) -> Path:
        """Writes a checkpoint of the current step and removes old ones.

        Returns:
            The checkpoint's folder.

        Raises:
            LossNotFinite: training diverged.
            UserError: the checkpoint can't be written.
        """
        totals = self.step_function.peek_totals()
        self._check_loss(totals)
        groups = tensor_groups(self.step_function, totals, self.group)
        self._saved_step = self.step
        if self.group.writes:
            state = {"seconds": self.seconds, "best": self.best, "parts": len(self.step_function.parts)}
            state |= {"evaluation_due": self._evaluation_due, "dtype": stored_dtype(self.model)}
            checkpoint.save(self.out, self.step, groups, state)
            best = self.best["step"] if self.best else None
            checkpoint.prune(self.out, self.step, self.config.training.keep_checkpoints, best)
        return checkpoint.step_folder(self.out, self.step)

    def _restore(self, groups: checkpoint.Groups, state: Record) -> None:
        try:
            restore(self.step_function, groups, self.group)
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self._saved_step = self.step
            self._evaluation_due = state.get("evaluation_due", False)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise UserError(f"the checkpoint does not fit {self.out / CONFIG}: {text}") from None

    def _summarize(self, evaluation: Evaluation | None, interrupted: bool) -> Record:
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
            write_text(self.out / SUMMARY, json_text(summary, indent=2) + "\n")
        return summary
