"""One training step on static buffers: refill, supervise in parts, backward, update. The host only fills and reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.nn import TRM, AdamATan2, Loss, Output
from trm_fast.tasks.base import Examples
from trm_fast.training.capture import Eager, Runner
from trm_fast.training.carry import Carry, empty_rows
from trm_fast.training.config import TrainingConfig

TOTALS = ("rows", "loss", "answer_loss", "halting_loss", "finished", "exact", "cells", "q_right", "steps")


class TrainStep:
    """A step to be called again and again: ``fill`` the halted slots, ``run``, ``read_totals`` now and then.

    ``kind``: examples of the shapes and dtypes that will come. Everything that changes lives in tensors made here
    (``tensors``); ``run`` only replays what was captured.
    """

    def __init__(
        self,
        model: TRM,
        optimizer: AdamATan2,
        config: TrainingConfig,
        kind: Examples,
        *,
        parts: int = 1,
        runner: Runner | None = None,
    ) -> None:
        B, device = config.batch_size, model.z_init.device
        self.model, self.optimizer, self.config = model, optimizer, config
        size = -(-B // parts)
        self.slices = [slice(start, min(start + size, B)) for start in range(0, B, size)]
        self.carry = Carry(model, B, kind)
        self.fresh = empty_rows(kind, B, device)
        self.minimum_steps = torch.zeros(B, dtype=torch.int32, device=device)
        self.totals = torch.zeros(len(TOTALS), dtype=torch.float64, device=device)
        self.puzzle_lr = torch.tensor(config.puzzle_learning_rate, device=device)
        self.row_gradients = None
        if model.puzzle_embedding is not None:
            self.row_gradients = model.puzzle_embedding.new_zeros(B, model.puzzle_embedding.shape[1])
        self.runner = runner or Eager()
        saved = [t.clone() for t in self.tensors()]
        self.runner.capture(self._step)
        for tensor, value in zip(self.tensors(), saved, strict=True):
            tensor.copy_(value)

    def tensors(self) -> list[Tensor]:
        """Everything a step changes."""
        o, kept = self.optimizer, [*self.carry.tensors().values(), self.totals]
        kept += [*o.weights, *o.exp_avg, *o.exp_avg_sq, *(o.ema or []), o.step_count]
        return kept if self.model.puzzle_embedding is None else [*kept, self.model.puzzle_embedding]

    def fill(self, rows: np.ndarray, examples: Examples, minimum_steps: np.ndarray, learning_rate: float) -> None:
        """What the host brings before a step: examples for the halted slots ``rows``, exploration, the rate."""
        index = torch.from_numpy(rows)
        for name, array in examples.arrays().items():
            self.fresh[name][index] = torch.from_numpy(array).to(self.fresh[name].device)
        self.minimum_steps.copy_(torch.from_numpy(minimum_steps))
        self.optimizer.lr.fill_(learning_rate)
        # One schedule for both, as published.
        self.puzzle_lr.fill_(self.config.puzzle_learning_rate * learning_rate / self.config.learning_rate)

    def run(self) -> None:
        self.runner.replay()

    def read_totals(self) -> dict[str, float]:
        """Sums since the last reading: over all rows of all steps, and over the rows that finished."""
        totals = dict(zip(TOTALS, self.totals.tolist(), strict=True))
        self.totals.zero_()
        return totals

    def _step(self) -> None:
        carry, model, B = self.carry, self.model, self.config.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        carry.refill(self.fresh)
        for rows in self.slices:
            out, loss, puzzle_rows = carry.supervise(model, rows)
            (loss.total / B).backward()
            carry.count_and_halt(out.q, self.minimum_steps, rows)
            if puzzle_rows is not None and puzzle_rows.grad is not None and self.row_gradients is not None:
                self.row_gradients[rows].copy_(puzzle_rows.grad)
            self._count(out, loss, rows)
        self.optimizer.step(grad_scale=self._clip())
        if model.puzzle_embedding is not None and self.row_gradients is not None:
            decay, ids = self.config.puzzle_weight_decay, carry.rows["puzzle_ids"]
            ops.sign_sgd_rows_(model.puzzle_embedding, self.row_gradients, ids, self.puzzle_lr, decay)

    def _clip(self) -> Tensor | None:
        if self.config.clip_norm is None:
            return None
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        return (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)

    @torch.no_grad()
    def _count(self, out: Output, loss: Loss, rows: slice) -> None:
        """Accuracies are those of finished rows, as published: an answer counts when the slot lets go of it."""
        finished = self.carry.halted[rows] & loss.labelled
        q_right = (out.q > self.carry.q_logit) == loss.exact
        counts = [
            torch.full_like(loss.answer, loss.exact.shape[0]), loss.total, loss.answer, loss.halting, finished.sum(),
            (finished & loss.exact).sum(), torch.where(finished, loss.cells, 0).sum(), (finished & q_right).sum(),
            torch.where(finished, self.carry.steps[rows], 0).sum(),
        ]  # fmt: skip
        self.totals += torch.stack([c.detach().double() for c in counts])
