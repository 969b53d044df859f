"""Evaluates the averaged weights on test examples during a run, with the solver."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from trm_fast.inference import Evaluation, Solved, Solver, score
from trm_fast.inference.solver import DEFAULT_STEPS, Progress
from trm_fast.models import TRMModel
from trm_fast.models.saving import save_model
from trm_fast.tasks import Task
from trm_fast.tasks.base import Examples
from trm_fast.training.config import RunConfig
from trm_fast.training.process_group import ProcessGroup
from trm_fast.training.signals import Interrupted, Stop
from trm_fast.training.state import averaged_tensors
from trm_fast.training.step import TrainStep
from trm_fast.training.validation_loss import validation_losses


def averaged_model(step: TrainStep) -> TRMModel:
    """A model that shares the averaged weights (or the weights if there is no average) and all buffers.

    In a curriculum it has the depth of the last training step.
    """
    with torch.random.fork_rng(devices=[]):  # the random numbers of dropout must not depend on evaluations
        config = step.model.config.model_copy(update=step.depth._asdict())
        model = TRMModel(config, step.model.compute_dtype).to(step.device)
    model.load_state_dict(averaged_tensors(step), assign=True)
    return model.requires_grad_(False).eval()


class Evaluator:
    """Evaluates the averaged weights of ``step``. It keeps a model that shares their memory, so that the solver's
    captured steps stay valid between evaluations."""

    def __init__(self, step: TrainStep, task: Task, examples: Examples, group: ProcessGroup) -> None:
        self.step, self.task, self.examples, self.group = step, task, examples, group
        self.model: TRMModel | None = None

    def depth_changed(self) -> None:
        """Discards the model and its captured steps, which have the previous depth."""
        self.model = None

    def unless(self, stopped: Stop, steps_done: int, progress: Progress) -> Evaluation | None:
        """Evaluates as a call does; None if a signal stops the run before the end. Several processes evaluate to the
        end, because they wait for each other."""
        if self.group.size > 1:
            return self(steps_done, progress)
        try:
            with stopped.interrupts():
                return self(steps_done, progress)
        except Interrupted:
            self.model = None  # its captured steps may be unfinished
            return None

    def __call__(self, steps_done: int, progress: Progress) -> Evaluation:
        """Evaluates on ``eval_count`` test examples, or on fewer early in a run, so that a short trial of a large model
        ends soon: an evaluation takes at most as many sample-steps as the ``steps_done`` training steps."""
        training, group = self.step.config, self.group
        affordable = steps_done * training.batch_size // DEFAULT_STEPS
        examples = self.examples.take(slice(min(training.eval_count, max(1, affordable))))
        self.model = self.model or averaged_model(self.step)
        solver = Solver(self.model, self.task, graph=training.graph == "auto")
        if self.step.device.type == "cuda":  # batches that fit into memory in training also fit here
            solver = replace(solver, batch_size=max(solver.batch_size, training.batch_size // group.size))
        start = time.perf_counter()
        share = examples.take(group.share(len(examples)))
        local = solver.run(share, progress=progress) if len(share) else None
        solved = Solved.joined([part for part in group.gather_objects(local) if part is not None])
        return score(solver, examples, solved, time.perf_counter() - start)

    def losses(self, steps_done: int) -> dict[str, float]:
        """The mean losses of the averaged weights on up to ``eval_loss_count`` test examples, fewer early in a run."""
        training = self.step.config
        affordable = steps_done * training.batch_size // self.step.depth.max_supervision_steps
        count = min(training.eval_loss_count, max(1, affordable))
        if not count:
            return {}
        self.model = self.model or averaged_model(self.step)
        part = len(range(*self.step.parts[0].indices(training.batch_size)))  # as many rows as fit in training
        return validation_losses(self.model, self.examples.take(slice(count)), training, part, self.group)

    def save(self, config: RunConfig, folder: Path) -> None:
        """Writes the averaged weights as a model folder, with the task's files and section.

        Raises:
            UserError: a file cannot be written.
        """
        if not self.group.writes:
            return
        model = averaged_model(self.step)
        model.solver_defaults = config.solver.changes()
        save_model(model, folder, self.task.save_assets, task=config.task.model_dump(mode="json"))
