"""Runs supervision steps on a queue of rows. Rows that finish leave the batch, and queued rows replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trm_fast.inference.capture import Runner
from trm_fast.inference.captured_step import captured_step, step_inputs
from trm_fast.inference.noise import gaussian
from trm_fast.inference.queue import INDEPENDENT, Plan, Queue
from trm_fast.models.halting import halting_rule
from trm_fast.models.trm import TRMModel
from trm_fast.nn.recursion import State

Accept = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(row numbers int64 (A,), answers (A, ...), bool (A,): whether the halting rule stops the row) -> bool (A,), True for
rows that halt."""


class StepResult(NamedTuple):
    """The A rows of the batch after a supervision step."""

    rows: Tensor  # int64 (A,): their numbers
    steps: Tensor  # int64 (A,): how many supervision steps each has taken
    answers: Tensor  # (A, ...), such as tokens int64 (A, L)
    confidence: Tensor  # float32 (A,)
    halted: Tensor  # bool (A,): whether each halts at this step


@torch.no_grad()
def run_steps(
    model: TRMModel,
    inputs: Tensor,
    max_steps: int,
    *,
    min_steps: int = 1,
    halt: bool = True,
    accept: Accept | None = None,
    puzzle_ids: Tensor | None = None,
    extra: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    plan: Plan = INDEPENDENT,
    runner: Callable[[], Runner] | None = None,
) -> Iterator[StepResult]:
    """Yields the batch after each supervision step, until all N rows have halted or taken ``max_steps``.

    Args:
        model: the model.
        inputs: tokens int (N, L), or values (N, L, F).
        max_steps: maximum number of supervision steps per row.
        min_steps: minimum number of supervision steps before a row may halt.
        halt: if False, every row runs all steps.
        accept: decides after each step which rows halt, by their answers; by default the halting rule decides.
        puzzle_ids: int (N,), rows of the puzzle embedding; row 0 by default.
        extra: further arrays (N, ...) that the model takes.
        batch_size: maximum number of rows in the batch; by default all N.
        noise: (N,), standard deviation of the Gaussian noise that is added to each row's latent state before each step.
            The noise depends only on (seed, row, step), so that no answer depends on the other rows of the batch.
        seed: seed of the noise.
        plan: how the rows depend on each other.
        runner: makes runners, which capture steps at fixed shapes; if None, the model is called.
    """
    N, device = len(inputs), inputs.device
    capacity = batch_size or max(1, N)
    queue = Queue(N, plan, device)
    if plan.hints_from is not None:
        inputs = inputs.clone()  # hints are written into it
    rule = halting_rule(model.config.halting, model.config.q_threshold)
    rows = steps = torch.zeros(0, dtype=torch.int64, device=device)
    state, memory = model.initial_state(0), rule.memory(0, device)
    while True:
        entering = queue.enter(0 if rule.whole_batch and len(rows) else max(0, capacity - len(rows)))
        if len(entering):
            rows, steps = torch.cat((rows, entering)), torch.cat((steps, torch.zeros_like(entering)))
            if plan.hints_from is not None:
                inputs[entering] = queue.hinted(entering, inputs[entering], seed)
            numbers = None if plan.initial_state is None else plan.initial_state[entering]
            new = queue.start(entering, model.initial_state(len(entering), numbers), seed)
            state = state.combine(new, lambda old, new: torch.cat((old, new)))
            memory = torch.cat((memory, rule.memory(len(entering), device)))
        elif not len(rows):
            return
        if noise is not None:
            state = State(state.y, state.z + gaussian(state.z, noise, rows, steps, seed))
        puzzle_rows = model.puzzle_rows(None if puzzle_ids is None else puzzle_ids[rows], len(rows))
        row_extra = {name: tensor[rows] for name, tensor in (extra or {}).items()}
        if runner is None:
            state, prediction, q = model(inputs[rows], state, puzzle_rows, **row_extra)
            answers = model.head.answers(prediction)
        else:
            arguments = step_inputs(inputs[rows], state, puzzle_rows, row_extra)
            results = captured_step(model, arguments, capacity, runner)
            state, q, answers = State(results.get("y"), results["z"]), results["q"], results["answers"]
        steps = steps + 1
        allowed = (steps >= min_steps) & halt
        halted = rule.should_halt(q, steps, answers.clone, memory) & allowed
        if accept is not None and halt:
            halted = accept(rows, answers, halted) & allowed
        yield StepResult(rows, steps, answers, q.sigmoid(), halted)
        staying = queue.leave(rows, steps, halted, max_steps, state, answers)
        source = queue.resampled(rows, steps, q, staying, seed)
        if source is not None:
            state, memory = state.rows(source), memory[source]
        if not bool(staying.all()):
            rows, steps, state, memory = rows[staying], steps[staying], state.rows(staying), memory[staying]
