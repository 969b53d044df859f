"""Runs supervision steps on many rows. Rows that finish leave the batch, and queued rows take their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trm_fast.inference.capture import Runner
from trm_fast.inference.captured_step import captured_step, step_inputs
from trm_fast.models.halting import halting_rule
from trm_fast.models.trm import TRMModel
from trm_fast.nn.recursion import State

Accept = Callable[[Tensor, Tensor], Tensor]
"""(row numbers int64 (A,), answers (A, ...)) -> bool (A,), true for answers that are acceptable."""


class StepResult(NamedTuple):
    """The A rows of the batch after a supervision step."""

    rows: Tensor  # int64 (A,): their numbers
    steps: Tensor  # int64 (A,): supervision steps that each has taken
    answers: Tensor  # (A, ...): such as tokens int64 (A, L)
    confidence: Tensor  # float32 (A,)
    halted: Tensor  # bool (A,): the halting rule stops it at this step


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
    groups: Tensor | None = None,
    runner: Callable[[], Runner] | None = None,
) -> Iterator[StepResult]:
    """Yields the batch after each supervision step, until all N rows have halted or taken ``max_steps``.

    Args:
        model: the model.
        inputs: tokens int (N, L), or values (N, L, F).
        max_steps: largest number of supervision steps of a row.
        min_steps: supervision steps before which no row halts.
        halt: False runs all steps for every row.
        accept: a row that the halting rule stops halts only if ``accept`` is true for its answer.
        puzzle_ids: int (N,), rows of the puzzle embedding; row 0 by default.
        extra: further arrays (N, ...) that the model takes.
        batch_size: largest number of rows in the batch; by default all N.
        noise: (N,), standard deviation of Gaussian noise that is added to a row's latent state before each step. It
            depends only on (seed, row, step), so that no answer depends on the other rows of the batch.
        seed: of the noise.
        groups: int (N,), rows with equal numbers are tries at the same problem: when one halts, the others leave the
            batch or never enter it.
        runner: makes runners, with which steps are captured at fixed shapes; None calls the model.
    """
    N, device = len(inputs), inputs.device
    capacity = batch_size or max(1, N)
    solved = torch.zeros(0 if groups is None else int(groups.max()) + 1, dtype=torch.bool, device=device)
    waiting = torch.arange(N, device=device)
    rule = halting_rule(model.config.halting, model.config.q_threshold)
    rows, steps, state, memory = waiting[:0], waiting[:0], model.initial_state(0), rule.memory(0, device)
    while len(rows) or len(waiting):
        if groups is not None:
            waiting = waiting[~solved[groups[waiting]]]
        free = 0 if rule.whole_batch and len(rows) else max(0, capacity - len(rows))
        entering, waiting = waiting[:free], waiting[free:]
        if not len(rows) and not len(entering):
            return
        if len(entering):
            rows, steps = torch.cat((rows, entering)), torch.cat((steps, torch.zeros_like(entering)))
            state = state.combine(model.initial_state(len(entering)), lambda old, new: torch.cat((old, new)))
            memory = torch.cat((memory, rule.memory(len(entering), device)))
        if noise is not None:
            state = State(state.y, state.z + _noise(state.z, noise, rows, steps, seed))
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
        halted = rule.should_halt(q, steps, answers.clone, memory) & (steps >= min_steps) & halt
        if accept is not None and bool(halted.any()):
            halted &= accept(rows, answers)
        yield StepResult(rows, steps, answers, q.sigmoid(), halted)
        staying = ~halted & (steps < max_steps)
        if groups is not None:
            solved[groups[rows[halted]]] = True
            staying &= ~solved[groups[rows]]
        if not bool(staying.all()):
            rows, steps, state, memory = rows[staying], steps[staying], state.rows(staying), memory[staying]


def _noise(z: Tensor, scale: Tensor, rows: Tensor, steps: Tensor, seed: int) -> Tensor:
    """Gaussian noise of the shape of z (A, P + L, D). Each row's noise is a function of (seed, row, step)."""
    numbers = zip(rows.tolist(), steps.tolist(), strict=True)
    keys = [hash((seed, row, step)) % 2**63 for row, step in numbers]
    if z.is_cuda:
        noise = hashed_normal(torch.tensor(keys, device=z.device), z[0].numel()).view(z.shape)
        return (noise * scale[rows].view(-1, 1, 1)).to(z.dtype)
    noise = torch.zeros(z.shape)
    generator = torch.Generator()
    for i, (key, sigma) in enumerate(zip(keys, scale[rows].tolist(), strict=True)):
        if sigma:
            generator.manual_seed(key)
            noise[i].normal_(0.0, sigma, generator=generator)
    return noise.to(z.dtype)


def hashed_normal(keys: Tensor, count: int) -> Tensor:
    """``count`` standard normal numbers for each key int64 (A,), float32 (A, count), on the keys' device.

    It hashes key and position with the finalizer of splitmix64 and applies the Box-Muller transform.
    """
    x = keys.unsqueeze(1) + torch.arange(1, count + 1, device=keys.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    radius = (((x >> 40 & 0xFFFFFF) + 1).float() / 2**24).log().mul(-2).sqrt()
    return radius * ((x & 0xFFFFFF).float() * (2 * math.pi / 2**24)).cos()
