"""The carry of deep supervision: the example, the state and the number of steps of each slot of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trm_fast.models import ForwardOptions, Loss, Output, TRMModel
from trm_fast.models.halting import halting_rule
from trm_fast.models.trm import DEFAULT_OPTIONS
from trm_fast.nn import State
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup


class Carry:
    """The slots of a training batch. The constructor allocates all tensors, which are then changed in place, so that a
    step can be captured. All slots start halted.

    Args:
        model: determines the shapes and the halting rule.
        batch_size: number of slots B.
        example_spec: any number of examples with the shapes and dtypes of the data.

    Attributes:
        state: y and z, each (B, L, D) or of a configured width; (B, K, L, D) in a model with K > 1 initial states.
        steps: int32 (B,), number of supervision steps on the current example.
        halted: bool (B,), whether a slot gets a new example in the next step.
        batch: the current examples.
    """

    def __init__(self, model: TRMModel, batch_size: int, example_spec: Examples) -> None:
        config, device = model.config, model.z_init.device
        self.initial_states = config.initial_states
        shape = (batch_size,) if self.initial_states == 1 else (batch_size, self.initial_states)
        self.state = model.initial_state(1).map(lambda t: t.new_zeros(*shape, *t.shape[1:]))
        self.steps = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.halted = torch.ones(batch_size, dtype=torch.bool, device=device)
        self.batch = Batch.zeros(example_spec, batch_size, device)
        self.max_steps = config.max_supervision_steps
        self.halting = halting_rule(config.halting, config.q_threshold)
        self.halting_memory = self.halting.memory(batch_size, device)

    def refill(self, fresh: Batch) -> None:
        """Puts new examples into halted slots, each from the slot's position in ``fresh``."""
        self.batch.replace_(self.halted, fresh)
        self.steps.masked_fill_(self.halted, 0)
        if self.halting.memory_size:
            self.halting_memory.masked_fill_(self.halted[:, None], 0)

    def supervise(
        self,
        model: TRMModel,
        part: slice,
        options: ForwardOptions = DEFAULT_OPTIONS,
        *,
        last: bool = True,
        label_smoothing: float = 0.0,
        scales: Mapping[str, Tensor] | None = None,
        start: State | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Output, Loss, Tensor | None]:
        """Runs the forward and the loss of one supervision step for a part of the slots, and stores their new state.

        Args:
            model: the model.
            part: the slots.
            options: how the forward is computed.
            last: whether this is the last supervision step before the optimizer step.
            label_smoothing: label smoothing of the head; 0 for heads without it.
            scales: factors of the head's ``masked_parts``.
            start: the state that halted slots of the part start from, in the shape of ``state``; by default the
                model's initial states.
            noise: added to the latent state of the part, in its shape.

        Returns:
            The output, the loss, and the puzzle rows (B, E), whose ``grad`` updates the puzzle embedding, or None in a
            model without a prefix. With several initial states, output and loss are those of the state with the
            lowest answer loss.
        """
        K, device = self.initial_states, self.halted.device
        fresh = start or model.initial_state(K, torch.arange(K, device=device))  # broadcast over the slots
        kept = self.state.rows(part)  # views
        halted = self.halted[part].view(-1, *(1,) * (kept.z.dim() - 1))
        state = fresh.combine(kept, lambda new, old: torch.where(halted, new, old))
        if noise is not None:
            state = State(state.y, state.z + noise)
        batch, leaf = self.batch.take(part), None
        loss_options: dict[str, Any] = {"last": last}
        loss_options |= {"label_smoothing": label_smoothing} if label_smoothing else {}
        loss_options |= {"scales": scales} if scales else {}
        if K > 1:
            state, every = winner(model, batch, state, options, **loss_options)
            kept.combine(every, Tensor.copy_)
        if model.puzzle_embedding is not None:
            leaf = model.puzzle_embedding[batch.puzzle_ids].requires_grad_()
        out = model(batch.inputs, state, leaf, options=options, **batch.extra)
        if K == 1:
            kept.combine(out.state, Tensor.copy_)
        return out, model.loss(out, batch.labels, **loss_options, **batch.extra), leaf

    @torch.no_grad()
    def halt(
        self,
        q: Tensor,
        answers: Callable[[], Tensor],
        min_steps: Tensor,
        part: slice,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Tensor:
        """Counts a supervision step for a part of the slots and decides which of them halt.

        Args:
            q: halting logits of the part.
            answers: computes the answers of the part, which some rules read.
            min_steps: int (B,), minimum number of supervision steps before a slot halts.
            part: the slots.
            group: the processes whose slots a rule for a whole batch decides on together.

        Returns:
            bool, the decision of the halting rule for each slot of the part, without minimum and maximum.
        """
        steps, memory = self.steps[part], self.halting_memory[part]
        steps += 1
        if self.halting.whole_batch and group.size > 1:
            every = group.gather(memory)
            decided = self.halting.should_halt(
                group.gather(q), group.gather(steps), lambda: group.gather(answers()), every
            )
            local = slice(group.rank * len(q), (group.rank + 1) * len(q))
            memory.copy_(every[local])
            should_halt = decided[local]
        else:
            should_halt = self.halting.should_halt(q, steps, answers, memory)
        self.halted[part].copy_(halts(should_halt, steps, min_steps[part], self.max_steps))
        return should_halt

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint stores, by name."""
        kept = {"z": self.state.z, "steps": self.steps, "halted": self.halted} | self.batch.tensors()
        if self.halting.memory_size:
            kept["halting_memory"] = self.halting_memory
        return kept if self.state.y is None else kept | {"y": self.state.y}


@torch.no_grad()
def winner(
    model: TRMModel, batch: Batch, state: State, options: ForwardOptions = DEFAULT_OPTIONS, **loss_options: Any
) -> tuple[State, State]:
    """Advances several states of each example and chooses the one with the lowest answer loss.

    Only the chosen one is then computed again with gradient: for K states that is K + 1 forwards and one backward, in
    place of K of both, and the memory of a single state.

    Args:
        model: the model.
        batch: the B examples.
        state: K states of each example, (B, K, L, D).
        options: how the forward is computed.
        loss_options: arguments of the head's ``loss``.

    Returns:
        The chosen state of each example before the step, (B, L, D), and all states after it, (B, K, L, D).
    """
    B, K = state.z.shape[:2]
    repeated = batch.map(lambda t: t.repeat_interleave(K, 0))
    rows = model.puzzle_rows(repeated.puzzle_ids, B * K)
    out = model(repeated.inputs, state.map(lambda t: t.flatten(0, 1)), rows, options=options, **repeated.extra)
    loss = model.loss(out, repeated.labels, **loss_options, **repeated.extra)
    best = loss.rows.view(B, K).argmin(1)
    slots = torch.arange(B, device=best.device)
    return state.map(lambda t: t[slots, best]), out.state.map(lambda t: t.unflatten(0, (B, K)))


def halts(should_halt: Tensor, steps: Tensor, min_steps: Tensor, max_steps: int) -> Tensor:
    """Which slots halt after a supervision step, bool (B,).

    A slot halts if the halting rule stops it, ``should_halt`` bool (B,), or if its ``steps`` int (B,) have reached
    ``max_steps``, but not before its ``min_steps`` int (B,).

    Examples:
        >>> rule, steps, minimum = torch.tensor([True, True, False]), torch.tensor([1, 1, 4]), torch.tensor([0, 2, 0])
        >>> halts(rule, steps, minimum, max_steps=4).tolist()
        [True, False, True]
    """
    return ((steps >= max_steps) | should_halt) & (steps >= min_steps)
