"""Evaluation during a run: the solver with the averaged weights on test examples."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from trm_fast.inference import Evaluation, Solved, Solver, score
from trm_fast.inference.solver import DEFAULT_STEPS, Progress
from trm_fast.models import TRMModel
from trm_fast.tasks import Task
from trm_fast.tasks.base import Examples
from trm_fast.training.process_group import ProcessGroup
from trm_fast.training.state import averaged_tensors
from trm_fast.training.step import TrainStep


def averaged_model(step: TrainStep) -> TRMModel:
    """A model that shares the averaged weights (or the weights if there is no average) and all buffers.

    In a curriculum it has the depth of the last training step."""
    with torch.random.fork_rng(devices=[]):  # evaluating more often must not change dropout
        config = step.model.config.model_copy(update=step.depth._asdict())
        model = TRMModel(config, step.model.compute_dtype).to(step.device)
    model.load_state_dict(averaged_tensors(step), assign=True)
    return model.requires_grad_(False).eval()


class Evaluator:
    """Evaluates the averaged weights of ``step``. It keeps a model that shares their memory, so that captured steps of
    the solver stay valid from one evaluation to the next."""

    def __init__(self, step: TrainStep, task: Task, examples: Examples, group: ProcessGroup) -> None:
        self.step, self.task, self.examples, self.group = step, task, examples, group
        self.model: TRMModel | None = None

    def depth_changed(self) -> None:
        """Drops the model and its captured steps, which have the old depth."""
        self.model = None

    def __call__(self, steps_done: int, progress: Progress) -> Evaluation:
        """Evaluates on ``eval_count`` test examples, or fewer early in a run: an evaluation never takes more
        sample-steps than the ``steps_done`` training steps, so that a short trial of a large model ends soon."""
        training, group = self.step.config, self.group
        affordable = steps_done * training.batch_size // DEFAULT_STEPS
        examples = self.examples.take(slice(min(training.eval_count, max(1, affordable))))
        self.model = self.model or averaged_model(self.step)
        solver = Solver(self.model, self.task, graph=training.graph == "auto")
        if self.step.device.type == "cuda":  # a batch that fits in training fits here
            solver = replace(solver, batch_size=max(solver.batch_size, training.batch_size // group.size))
        start = time.perf_counter()
        share = examples.take(group.slice_of(len(examples)))
        local = solver.run(share, progress=progress) if len(share) else None
        solved = Solved.joined([part for part in group.gather_objects(local) if part is not None])
        return score(solver, examples, solved, time.perf_counter() - start)
