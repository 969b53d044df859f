"""The training step: refills slots, runs forward and backward in parts, and updates the weights.

It works in static buffers and without host-device synchronization, so that it can be captured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.inference.capture import Eager, Runner
from trm_fast.models import Depth, ForwardOptions, Loss, Output, TRMModel
from trm_fast.tasks.base import IntArray
from trm_fast.training.batch import host_tensor
from trm_fast.training.carry import Carry
from trm_fast.training.config import TrainingConfig
from trm_fast.training.feed import Feed
from trm_fast.training.optimizers import Optimizer
from trm_fast.training.pool import Pool
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup
from trm_fast.training.random_states import RandomStates

TOTALS = ("rows", "loss", "answer_loss", "halting_loss", "finished", "exact", "cells", "q_right", "steps")


class TrainStep:
    """The training step: ``run`` runs one step, ``read_totals`` returns the sums for the metrics.

    All values that change are in tensors (``tensors``). ``run`` copies a few numbers to the device and replays the
    captured step.

    Args:
        model: the model to train.
        optimizer: the optimizer of its parameters.
        config: the ``training`` section.
        source: the feed of fresh examples.
        parts: number of parts in which a batch is computed (gradient accumulation).
        runner: captures and replays the step; by default the step is called.
        group: the processes that train together; each computes its share of the batch.
        depth: depth of recursion, by default the model's.
    """

    def __init__(
        self,
        model: TRMModel,
        optimizer: Optimizer,
        config: TrainingConfig,
        source: Feed,
        *,
        parts: int = 1,
        runner: Runner | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
        depth: Depth | None = None,
    ) -> None:
        device = model.z_init.device
        self.model, self.optimizer, self.config, self.group = model, optimizer, config, group
        self.device = device
        self.share = group.batch_share(config.batch_size)
        B = self.share.stop - self.share.start
        size = -(-B // parts)
        self.parts = [slice(start, min(start + size, B)) for start in range(0, B, size)]
        self.pool = Pool(source, config.batch_size, device, group)
        self.carry = Carry(model, B, source.example_spec)
        self.copies = model.weight_copies(self.carry.state.z[self.parts[0]].flatten(0, -3))
        if self.copies.all_copies:
            optimizer.write_copies(*self.copies.copies_for(model.parameters()))
        # One copy to the device per step: two learning rates and the minimum steps of each slot (exploration).
        self.host_scalars = torch.zeros(2 + B, device=device)
        self.lr, self.puzzle_lr, self.minimum_steps = (
            self.host_scalars[0], self.host_scalars[1], self.host_scalars[2:]
        )  # fmt: skip
        self.totals = torch.zeros(len(TOTALS), dtype=torch.float64, device=device)
        self.row_gradients = None
        if model.puzzle_embedding is not None:
            self.row_gradients = model.puzzle_embedding.new_zeros(B, model.puzzle_embedding.shape[1])
        slots = range(self.share.start, self.share.stop)
        self.random_states = RandomStates(config.seed, slots, optimizer.step_count)
        self.runner = runner or Eager()
        self.set_depth(depth or model.config.depth)

    unrolled: int
    """Number of supervision steps per optimizer step."""

    def set_depth(self, depth: Depth) -> None:
        """Changes the depth of recursion and captures the step again."""
        fp8 = None if self.config.no_grad_dtype == "same" else self.config.no_grad_dtype
        self.depth, self.carry.max_steps = depth, depth.max_supervision_steps
        self.options = ForwardOptions(depth, self.copies, fp8, recompute=self.config.recompute == "latent")
        self.unrolled = depth.max_supervision_steps if self.config.supervision == "unrolled" else 1
        device, saved = self.device, [t.clone() for t in self.tensors()]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout
            self.runner.capture(self._step)
        for tensor, value in zip(self.tensors(), saved, strict=True):
            tensor.copy_(value)

    def tensors(self) -> list[Tensor]:
        """All tensors that a step changes."""
        tensors = [*self.carry.tensors().values(), self.totals, self.pool.taken, *self.optimizer.tensors()]
        return tensors if self.model.puzzle_embedding is None else [*tensors, self.model.puzzle_embedding]

    def run(self, learning_rate: float, minimum_steps: IntArray) -> None:
        """Runs one step without waiting for the device.

        Args:
            learning_rate: the rate of this step. That of the puzzle embedding follows the same schedule, as published.
            minimum_steps: int (B,), minimum number of supervision steps of each slot of the whole batch.
        """
        puzzle_rate = self.config.puzzle_learning_rate * learning_rate / self.config.learning_rate
        if self.unrolled > 1:  # no slot halts before the last step
            minimum_steps = np.full_like(minimum_steps, self.unrolled)
        scalars = np.concatenate(([learning_rate, puzzle_rate], minimum_steps[self.share])).astype(np.float32)
        self.pool.refill()
        self.copies.refresh()
        self.host_scalars.copy_(host_tensor(scalars, pin=self.host_scalars.is_cuda), non_blocking=True)
        self.runner.replay()
        self.pool.step_sent()

    def wait(self) -> None:
        """Waits until the device has finished all steps."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peek_totals(self) -> dict[str, float]:
        """Sums since the last ``read_totals``, by the names in ``TOTALS``: the first four over all rows in all steps,
        the others over the rows that finished."""
        return dict(zip(TOTALS, self.group.sum_(self.totals.clone()).tolist(), strict=True))

    def read_totals(self) -> dict[str, float]:
        """Returns the sums and sets them to zero."""
        totals = self.peek_totals()
        self.totals.zero_()
        return totals

    def _step(self) -> None:
        carry, model, batch = self.carry, self.model, self.config.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.lr.copy_(self.lr)
        carry.refill(self.pool.next_examples(carry.halted))
        if self.row_gradients is not None:
            self.row_gradients.zero_()
        whole_batch = self.unrolled > 1 and carry.halting.whole_batch
        for part in self.parts:
            running = torch.ones((), device=self.device)
            for step in range(self.unrolled):
                last = step + 1 == self.unrolled
                out, loss, puzzle_rows = carry.supervise(
                    model, part, self.options, last=last, label_smoothing=self.config.label_smoothing,
                    **self._random_states(part, step),
                )  # fmt: skip
                loss = loss.weighted(self.config.halting_weight)
                total = loss.total * running if whole_batch else loss.total
                (total / (batch * self.unrolled)).backward()
                should_halt = carry.count_and_halt(model, out, self.minimum_steps, part)
                if whole_batch:  # supervision steps after the batch has halted do not count
                    running = running * ~should_halt[0]
                if puzzle_rows is not None and puzzle_rows.grad is not None and self.row_gradients is not None:
                    self.row_gradients[part].add_(puzzle_rows.grad)
                self._count(out, loss, part)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.group.sum_gradients_(gradients)
        self.optimizer.step(grad_scale=self._clip(gradients))
        self.copies.mark_current()
        if model.puzzle_embedding is not None and self.row_gradients is not None:
            row_gradients, ids = self.group.gather(self.row_gradients), self.group.gather(carry.batch.puzzle_ids)
            ops.sign_sgd_rows_(
                model.puzzle_embedding, row_gradients, ids, self.puzzle_lr, self.config.puzzle_weight_decay
            )

    def _random_states(self, part: slice, step: int) -> dict[str, Any]:
        """The random arguments of ``Carry.supervise``, for a supervision step of this optimizer step."""
        state = self.carry.state.rows(part)
        arguments: dict[str, Any] = {}
        if self.config.initial_state == "random":
            arguments["start"] = self.random_states.start(state, part, step)
        if self.config.state_noise:
            arguments["noise"] = self.config.state_noise * self.random_states.noise(state.z, part, step)
        return arguments

    def _clip(self, gradients: list[Tensor]) -> Tensor | None:
        if self.config.clip_norm is None:
            return None
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        return (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)

    @torch.no_grad()
    def _count(self, out: Output, loss: Loss, part: slice) -> None:
        """Adds to the totals. Accuracies are those of finished rows, as published."""
        finished = self.carry.halted[part] & loss.labeled
        q_right = (out.q > self.carry.halting.logit) == loss.exact
        counts = [
            torch.full_like(loss.answer, loss.exact.shape[0]), loss.total, loss.answer, loss.halting, finished.sum(),
            (finished & loss.exact).sum(), torch.where(finished, loss.cells, 0).sum(), (finished & q_right).sum(),
            torch.where(finished, self.carry.steps[part], 0).sum(),
        ]  # fmt: skip
        self.totals += torch.stack([c.detach().double() for c in counts])
