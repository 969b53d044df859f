"""The queue of rows that wait to enter the batch, and how tries at the same problem depend on each other."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from trm_fast.inference.noise import gaussian
from trm_fast.nn.recursion import State

NO_LIMIT = 2**31


class Plan(NamedTuple):
    """How the N rows of a queue depend on each other. Each tensor has one entry per row."""

    problem: Tensor | None = None
    """int64: rows with equal numbers are tries at the same problem. When one halts, the others leave the batch or never
    enter it. None: rows are independent."""
    race: bool = False
    """When a row halts, the other rows of its problem continue until they have taken as many steps, because the try
    with the fewest steps wins."""
    after: Tensor | None = None
    """int64: the row that must end before this one enters, -1 for none."""
    order: Tensor | None = None
    """int64: the rows that enter, in this order; by default 0 to N - 1."""
    initial_state: Tensor | None = None
    """int64: the number of the model's initial state that the row starts from; by default the first."""
    random_start: Tensor | None = None
    """bool: whether the latent state starts as Gaussian noise with the size of the model's initial state."""
    warm_start: Tensor | None = None
    """bool: whether the row starts from the last state of the row in ``after``."""
    particles: Tensor | None = None
    """int64: rows with equal numbers exchange states (``resampled``); -1: never."""
    resample_every: int = 0
    """Number of supervision steps between two exchanges."""
    hints_from: Tensor | None = None
    """int64: the row from whose last answer the row reads hints, which must end before it enters; -1: none."""
    hints: int = 0
    """Number of hints: positions of the question, open before, that hold tokens of that answer."""
    open_token: int = 0
    """The input token of open positions."""

    def limited(self, included: Tensor) -> Plan:
        """The plan in which only the rows with ``included``, bool (N,), enter."""
        rows = torch.arange(len(included), device=included.device) if self.order is None else self.order
        return self._replace(order=rows[included[rows]])


INDEPENDENT = Plan()


class Queue:
    """The rows 0 to N - 1: which of them wait or have ended, and the last states that later rows start from.

    Args:
        count: N.
        plan: how the rows depend on each other.
        device: device of all tensors.
    """

    def __init__(self, count: int, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self.waiting = torch.arange(count, device=device) if plan.order is None else plan.order
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        problems = int(plan.problem.max()) + 1 if plan.problem is not None and count else 0
        self.limit = torch.full((problems,), NO_LIMIT, device=device)  # a row must halt in fewer steps to matter
        self.needed = torch.zeros_like(self.ended)  # rows whose last state another row starts from
        if plan.warm_start is not None and plan.after is not None:
            self.needed[plan.after[plan.warm_start]] = True
        self.last: dict[int, State] = {}
        self.hinting = torch.zeros_like(self.ended)  # rows whose last answer gives hints
        if plan.hints_from is not None:
            self.hinting[plan.hints_from[plan.hints_from >= 0]] = True
        self.answers: dict[int, Tensor] = {}

    def enter(self, count: int) -> Tensor:
        """Removes up to ``count`` rows that may enter the batch now from the queue, and returns them, int64 (A,)."""
        problem, after = self.plan.problem, self.plan.after
        if problem is not None:
            self.waiting = self.waiting[self.limit[problem[self.waiting]] > 1]
        if after is None:
            entering, self.waiting = self.waiting[:count], self.waiting[count:]
            return entering
        previous = after[self.waiting]
        ready = (previous < 0) | self.ended[previous]
        ready &= ready.cumsum(0) <= count
        entering, self.waiting = self.waiting[ready], self.waiting[~ready]
        return entering

    def start(self, rows: Tensor, initial: State, seed: int) -> State:
        """Returns the states that entering rows start from. ``initial``: the model's initial states."""
        state = initial
        if self.plan.random_start is not None:
            size = initial.z.float().square().mean().sqrt()
            random = self.plan.random_start
            noise = gaussian(initial.z, size * random, rows, torch.full_like(rows, -1), seed)
            state = State(state.y, torch.where(random[rows].view(-1, 1, 1), noise, state.z))
        if self.last and self.plan.warm_start is not None and self.plan.after is not None:
            for i in self.plan.warm_start[rows].nonzero().flatten().tolist():
                previous = self.last.pop(int(self.plan.after[rows[i]]))
                states = [state.rows(slice(i)), previous, state.rows(slice(i + 1, None))]
                state = reduce(lambda one, two: one.combine(two, lambda a, b: torch.cat((a, b))), states)
        return state

    def hinted(self, rows: Tensor, inputs: Tensor, seed: int) -> Tensor:
        """Returns the inputs (A, L) of entering rows with their hints. The positions depend on (seed, row) alone."""
        if self.plan.hints_from is None:
            return inputs
        inputs, generator = inputs.clone(), torch.Generator()
        for i, (row, source) in enumerate(zip(rows.tolist(), self.plan.hints_from[rows].tolist(), strict=True)):
            if source >= 0:
                positions = (inputs[i] == self.plan.open_token).nonzero().flatten()
                generator.manual_seed(hash((seed, row)) % 2**63)
                positions = positions[
                    torch.randperm(len(positions), generator=generator)[: self.plan.hints].to(positions.device)
                ]
                inputs[i, positions] = self.answers[source][positions].to(inputs.dtype)
        return inputs

    def leave(
        self, rows: Tensor, steps: Tensor, halted: Tensor, max_steps: int, state: State, answers: Tensor
    ) -> Tensor:
        """Returns which rows of the batch stay after a supervision step, bool (A,)."""
        staying = ~halted & (steps < max_steps)
        if (problem := self.plan.problem) is not None:
            limits = steps[halted] if self.plan.race else torch.zeros_like(steps[halted])
            self.limit.scatter_reduce_(0, problem[rows[halted]], limits, "amin")
            staying &= steps + 1 < self.limit[problem[rows]]
        self.ended[rows[~staying]] = True
        for i in (self.needed[rows] & ~staying).nonzero().flatten():
            self.last[int(rows[i])] = state.rows(i[None])  # a copy, so that the batch is not kept alive
        for i in (self.hinting[rows] & ~staying).nonzero().flatten():
            self.answers[int(rows[i])] = answers[i].clone()
        return staying

    def resampled(self, rows: Tensor, steps: Tensor, q: Tensor, staying: Tensor, seed: int) -> Tensor | None:
        """Returns the row of the batch whose state each row continues from, int64 (A,), or None if no state changes.

        Every ``resample_every`` steps, rows with equal numbers in ``particles`` that have taken equally many steps are
        resampled in proportion to exp(q), the odds that their answers are right (systematic resampling).
        """
        plan = self.plan
        if plan.particles is None:
            return None
        due = staying & (plan.particles[rows] >= 0) & (steps % plan.resample_every == 0)
        if not bool(due.any()):
            return None
        source = torch.arange(len(rows), device=rows.device)
        members: dict[tuple[int, int], list[int]] = {}
        numbers = zip(due.tolist(), plan.particles[rows].tolist(), steps.tolist(), strict=True)
        for i, (is_due, particle, step) in enumerate(numbers):
            if is_due:
                members.setdefault((particle, step), []).append(i)
        for (particle, step), batch_rows in members.items():
            offset = hash((seed, particle, step)) % 2**20 / 2**20
            weights = q[batch_rows].double().softmax(0)
            points = (torch.arange(len(batch_rows), device=q.device) + offset) / len(batch_rows)
            chosen = torch.searchsorted(weights.cumsum(0), points).clamp(max=len(batch_rows) - 1)
            source[batch_rows] = source[batch_rows][chosen]
        return source
