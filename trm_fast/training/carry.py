"""The carry of deep supervision: what each slot of the batch works on, how far it is, and when it takes new data."""

from __future__ import annotations

import torch
from torch import Tensor

from trm_fast.nn import IGNORE, TRM, Loss, Output, State, supervision_loss


class Carry:
    """Slots of a training batch. All tensors are allocated once and changed in place, so that a step can be captured.

    ``state`` (B, P + L, D); ``steps`` int32 (B,) supervision steps on the current example; ``halted`` bool (B,);
    ``inputs``, ``labels`` int32 (B, L) and ``puzzle_ids`` int32 (B,), the examples in flight. All slots start halted.
    """

    def __init__(self, model: TRM, batch_size: int) -> None:
        config, device = model.config, model.z_init.device
        shape = (batch_size, config.total_tokens, config.hidden_size)
        y = torch.zeros(shape, dtype=model.compute_dtype, device=device) if config.state == "dual" else None
        self.state = State(y, torch.zeros(shape, dtype=model.compute_dtype, device=device))
        self.steps = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.halted = torch.ones(batch_size, dtype=torch.bool, device=device)
        self.inputs = torch.zeros(batch_size, config.seq_len, dtype=torch.int32, device=device)
        self.labels = torch.full_like(self.inputs, IGNORE)
        self.puzzle_ids = torch.zeros_like(self.steps)
        self.max_steps, self.q_logit = config.max_supervision_steps, config.q_logit

    def refill(self, inputs: Tensor, labels: Tensor, puzzle_ids: Tensor) -> None:
        """Gives halted slots the examples at their places in a fresh batch."""
        halted = self.halted
        self.inputs.copy_(torch.where(halted[:, None], inputs, self.inputs))
        self.labels.copy_(torch.where(halted[:, None], labels, self.labels))
        self.puzzle_ids.copy_(torch.where(halted, puzzle_ids, self.puzzle_ids))
        self.steps.masked_fill_(halted, 0)

    def supervise(self, model: TRM, rows: slice) -> tuple[Output, Loss, Tensor | None]:
        """One supervision step of some slots: forward and loss; the new state is kept.

        The third value is the leaf of the puzzle rows (B, E), whose ``grad`` the sparse update reads.
        """
        fresh = model.initial_state(1)
        halted = self.halted[rows, None, None]
        z = torch.where(halted, fresh.z, self.state.z[rows])
        y = None if fresh.y is None or self.state.y is None else torch.where(halted, fresh.y, self.state.y[rows])
        leaf = None
        if model.puzzle_embedding is not None:
            leaf = model.puzzle_embedding[self.puzzle_ids[rows]].requires_grad_()
        out = model(self.inputs[rows], State(y, z), leaf)
        self.state.z[rows].copy_(out.state.z)
        if self.state.y is not None and out.state.y is not None:
            self.state.y[rows].copy_(out.state.y)
        return out, supervision_loss(out.logits, out.q, self.labels[rows]), leaf

    def count_and_halt(self, q: Tensor, min_steps: Tensor, rows: slice) -> None:
        """A slot halts when Q says so or at the last step, but not before ``min_steps`` int32 (B,) (exploration)."""
        steps = self.steps[rows]
        steps += 1
        done = (steps >= self.max_steps) | (q.detach() > self.q_logit)
        self.halted[rows].copy_(done & (steps >= min_steps[rows]))

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint keeps."""
        names = ("steps", "halted", "inputs", "labels", "puzzle_ids")
        kept = {"z": self.state.z} | {name: getattr(self, name) for name in names}
        return kept if self.state.y is None else kept | {"y": self.state.y}
