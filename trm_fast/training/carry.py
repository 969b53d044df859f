"""The carry of deep supervision: what each slot of the batch works on, how far it is, and when it takes new data."""

from __future__ import annotations

import torch
from torch import Tensor

from trm_fast.models import ForwardOptions, Loss, Output, TRMModel
from trm_fast.models.halting import halting_rule
from trm_fast.models.trm import DEFAULT_OPTIONS
from trm_fast.nn import State
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch


class Carry:
    """Slots of a training batch. All tensors are allocated once and changed in place, so that a step can be captured.

    ``state``, its parts (B, P + L, D or a width of its own); ``steps`` int32 (B,) supervision steps on the current
    example; ``halted`` bool (B,); ``batch``: the examples under way. All slots start halted.
    ``example_spec``: examples of the shapes and dtypes that will come; their number does not matter.
    """

    def __init__(self, model: TRMModel, batch_size: int, example_spec: Examples) -> None:
        config, device = model.config, model.z_init.device
        y, z = (t if t is None else torch.zeros_like(t).contiguous() for t in model.initial_state(batch_size))
        self.state = State(y, z)  # type: ignore[arg-type]
        self.steps = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.halted = torch.ones(batch_size, dtype=torch.bool, device=device)
        self.batch = Batch.zeros(example_spec, batch_size, device)
        self.max_steps = config.max_supervision_steps
        self.halting = halting_rule(config.halting, config.q_threshold)
        self.halting_memory = self.halting.memory(batch_size, device)

    def refill(self, fresh: Batch) -> None:
        """Gives halted slots the examples at their places in a fresh batch."""
        self.batch.replace_(self.halted, fresh)
        self.steps.masked_fill_(self.halted, 0)
        if self.halting.memory_size:
            self.halting_memory.masked_fill_(self.halted[:, None], 0)

    def supervise(
        self, model: TRMModel, part: slice, options: ForwardOptions = DEFAULT_OPTIONS, *, last: bool = True
    ) -> tuple[Output, Loss, Tensor | None]:
        """One supervision step of a part of the slots: forward and loss; the new state is kept.

        ``last``: it is the last one that is learned together with others before.

        The third value is the leaf of the puzzle rows (B, E), whose ``grad`` the sparse update reads.
        """
        fresh = model.initial_state(1)
        halted = self.halted[part, None, None]
        z = torch.where(halted, fresh.z, self.state.z[part])
        y = None if fresh.y is None or self.state.y is None else torch.where(halted, fresh.y, self.state.y[part])
        batch, leaf = self.batch.take(part), None
        if model.puzzle_embedding is not None:
            leaf = model.puzzle_embedding[batch.puzzle_ids].requires_grad_()
        out = model(batch.inputs, State(y, z), leaf, options=options, **batch.extra)
        self.state.z[part].copy_(out.state.z)
        if self.state.y is not None and out.state.y is not None:
            self.state.y[part].copy_(out.state.y)
        return out, model.loss(out, batch.labels, last=last, **batch.extra), leaf

    @torch.no_grad()
    def count_and_halt(self, model: TRMModel, out: Output, min_steps: Tensor, part: slice) -> Tensor:
        """Behind a supervision step of a part: ``min_steps`` (B,) are those before which no slot halts.

        Returns what the halting rule alone says of the part's slots."""
        steps = self.steps[part]
        steps += 1
        should_halt = self.halting.should_halt(
            out.q, steps, lambda: model.head.answers(out.logits), self.halting_memory[part]
        )
        self.halted[part].copy_(halts(should_halt, steps, min_steps[part], self.max_steps))
        return should_halt

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint keeps."""
        kept = {"z": self.state.z, "steps": self.steps, "halted": self.halted} | self.batch.tensors()
        if self.halting.memory_size:
            kept["halting_memory"] = self.halting_memory
        return kept if self.state.y is None else kept | {"y": self.state.y}


def halts(should_halt: Tensor, steps: Tensor, min_steps: Tensor, max_steps: int) -> Tensor:
    """Which slots halt, bool (B,), after ``steps`` int (B,) supervision steps: those that the halting rule stops,
    ``should_halt`` bool (B,), and those at ``max_steps``, but none before its ``min_steps`` (B,)."""
    return ((steps >= max_steps) | should_halt) & (steps >= min_steps)
