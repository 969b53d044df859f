"""Several models for one task with rules: each tries the puzzles that those before it have not solved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.inference.solver import Progress, Solver
from trm_fast.inference.steps import StepResult
from trm_fast.inference.tries import Solved
from trm_fast.models import TRMModel
from trm_fast.tasks.base import Examples


@dataclass(frozen=True)
class Ensemble(Solver):
    """A solver with several models. ``model`` makes its tries first. Then each of ``others`` makes its tries at the
    questions that have no valid answer yet. Options that are None take the value stored with each model.

    Args:
        others: further models for the task.

    Raises:
        UserError: the task has no rules, ``select`` is not ``rules``, or a model does not fit the task or the options.
    """

    others: tuple[TRMModel, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task.has_rules:
            raise UserError(
                f"several models need rules, which decide between their answers; the task {self.task.name} has none",
                usage_error=True,
            )
        for solver in self.solvers:
            if solver.options.select not in ("auto", "rules"):
                raise UserError(f"several models need select rules, not {solver.options.select}", usage_error=True)

    @property
    def models(self) -> tuple[TRMModel, ...]:
        return (self.model, *self.others)

    @cached_property
    def solvers(self) -> list[Solver]:
        """A solver for each model."""
        options = {f.name: getattr(self, f.name) for f in fields(Solver)}
        return [Solver(**options | {"model": model}) for model in self.models]

    def run(
        self,
        examples: Examples,
        *,
        only: npt.NDArray[np.int64] | None = None,
        progress: Progress | None = None,
        watch: Callable[[StepResult], None] | None = None,
    ) -> Solved:
        """As ``Solver.run``. ``watch`` is called for the first model alone."""
        end = None if self.budget is None else time.perf_counter() + self.budget
        first, *others = self.solvers
        numbers = np.arange(len(examples)) if only is None else only
        solved = first.run(examples, only=only, progress=progress, watch=watch)
        for solver in others:
            assert solved.valid is not None
            rows = np.flatnonzero(~solved.valid)
            left = None if end is None else end - time.perf_counter()
            if not len(rows) or (left is not None and left <= 0):
                break
            count, solved_before = len(numbers), len(numbers) - len(rows)

            def report(done: int, _: int, count: int = count, start: int = solved_before) -> None:
                if progress is not None:
                    progress(start + done, count)

            further = replace(solver, budget=left).run(examples, only=numbers[rows], progress=report)
            solved = solved.with_further(rows, further)
        return solved

    def _with_one_try(self) -> Solver:
        raise UserError("a trajectory shows one try: leave out the further models", usage_error=True)
