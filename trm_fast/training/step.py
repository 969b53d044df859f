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
"""Names of the sums for the metrics. After them come the parts of the head's loss, two sums each."""


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
        self.names = (*TOTALS, *(name for part in model.head.loss_parts for name in (part, f"{part}_rows")))
        self.totals = torch.zeros(len(self.names), dtype=torch.float64, device=device)
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
        the others over the rows that finished. Of each part of the loss, the sum over the rows that have a label for
        it (``tool``), and the number of these rows (``tool_rows``)."""
        return dict(zip(self.names, self.group.sum_(self.totals.clone()).tolist(), strict=True))

    def read_totals(self) -> dict[str, float]:
        """Returns the sums and sets them to zero."""
        totals = self.peek_totals()
        self.totals.zero_()
        return totals

    def _step(self) -> None:
        carry, model = self.carry, self.model
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.lr.copy_(self.lr)
        carry.refill(self.pool.next_examples(carry.halted))
        if self.row_gradients is not None:
            self.row_gradients.zero_()
        scales = model.head.scales(carry.batch.labels, self.config.batch_size, self.group.sum_)
        if carry.halting.whole_batch:  # the parts wait for each other after each supervision step
            running = torch.ones((), device=self.device)
            for step in range(self.unrolled):
                running = running * ~self._supervise(self.parts, step, scales, running)[0]
        else:
            for part in self.parts:
                for step in range(self.unrolled):
                    self._supervise([part], step, scales)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.group.sum_gradients_(gradients)
        self.optimizer.step(grad_scale=self._clip(gradients))
        self.copies.mark_current()
        if model.puzzle_embedding is not None and self.row_gradients is not None:
            row_gradients, ids = self.group.gather(self.row_gradients), self.group.gather(carry.batch.puzzle_ids)
            ops.sign_sgd_rows_(
                model.puzzle_embedding, row_gradients, ids, self.puzzle_lr, self.config.puzzle_weight_decay
            )

    def _supervise(
        self, parts: list[slice], step: int, scales: dict[str, Tensor], running: Tensor | None = None
    ) -> Tensor:
        """A supervision step of consecutive parts, which then halt together.

        Args:
            parts: the slots.
            step: number of the supervision step in this optimizer step.
            scales: factors of parts of the loss.
            running: (), 0 if the loss does not count, because the batch has halted; by default it counts.

        Returns:
            The decision of the halting rule for each slot of the parts, bool.
        """
        carry, model, last = self.carry, self.model, step + 1 == self.unrolled
        results: list[tuple[slice, Output, Loss]] = []
        for part in parts:
            out, loss, puzzle_rows = carry.supervise(
                model, part, self.options, last=last, label_smoothing=self.config.label_smoothing, scales=scales,
                **self._random_states(part, step),
            )  # fmt: skip
            loss = loss.weighted(self.config.halting_weight)
            total = loss.total if running is None else loss.total * running
            (total / (self.config.batch_size * self.unrolled)).backward()
            if puzzle_rows is not None and puzzle_rows.grad is not None and self.row_gradients is not None:
                self.row_gradients[part].add_(puzzle_rows.grad)
            results.append((part, out, loss))
        with torch.no_grad():
            q = torch.cat([out.q for _, out, _ in results])
            should_halt = carry.halt(
                q, lambda: torch.cat([model.head.answers(out.logits) for _, out, _ in results]), self.minimum_steps,
                slice(parts[0].start, parts[-1].stop), self.group,
            )  # fmt: skip
        for part, out, loss in results:
            self._count(out, loss, part)
        return should_halt

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
            *(number for name in self.model.head.loss_parts for number in loss.parts[name]),
        ]  # fmt: skip
        self.totals += torch.stack([c.detach().double() for c in counts])
