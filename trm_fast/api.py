"""``trm_fast.TRM``: the network with what people do with it: solve, train a step, save, load."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trm_fast.inference.capture import graphs_on
from trm_fast.inference.incremental import Incremental
from trm_fast.inference.steps import run_steps
from trm_fast.models import TRMConfig, TRMModel
from trm_fast.models.halting import halting_rule
from trm_fast.models.saving import load_model, save_model
from trm_fast.nn.recursion import read_answer
from trm_fast.training.optimizers import AdamATan2


class TRM(TRMModel):
    """A Tiny Recursive Model (arXiv 2510.04871).

    Weights are float32; ``compute_dtype`` (float32 or bfloat16) is what the state and all activations have.
    """

    def __init__(self, config: TRMConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config, compute_dtype)
        self._optimizer: AdamATan2 | None = None  # of train_step, when it is given none

    def train_step(
        self,
        inputs: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer | None = None,
        puzzle_ids: Tensor | None = None,
    ) -> dict[str, float]:
        """Deep supervision on one batch (B rows): up to ``max_supervision_steps`` optimizer steps.

        Stops when every row halts. Without an optimizer the model keeps an ``AdamATan2`` of its own. Returns the
        last ``loss`` (a row), ``accuracy`` (cells), ``exact_accuracy`` and the ``steps`` taken. It is the small way to
        train; ``trm_fast.Trainer`` refills halted rows, averages weights, schedules and saves.
        """
        if optimizer is None:
            optimizer = self._optimizer = self._optimizer or AdamATan2(self.parameters())
        rule = halting_rule(self.config.halting, self.config.q_threshold)
        memory = rule.memory(len(inputs), inputs.device)
        state, rows = self.initial_state(len(inputs)), self.puzzle_rows(puzzle_ids, len(inputs))
        for steps in range(1, self.config.max_supervision_steps + 1):
            optimizer.zero_grad()
            out = self(inputs, state, rows)
            state, loss = out.state, self.loss(out, labels)
            (loss.total / len(inputs)).backward()
            optimizer.step()
            behind = torch.full_like(out.q, steps, dtype=torch.int32)
            if bool(rule.should_halt(out.q.detach(), behind, partial(self.head.answers, out.logits), memory).all()):
                break
        return {
            "loss": loss.total.item() / len(inputs),
            "accuracy": loss.cells.mean().item(),
            "exact_accuracy": loss.exact.float().mean().item(),
            "steps": steps,
        }

    def solve(
        self,
        inputs: Tensor,
        max_steps: int | None = None,
        *,
        halt: bool = True,
        min_steps: int = 1,
        accept: Callable[[Tensor, Tensor], Tensor] | None = None,
        puzzle_ids: Tensor | None = None,
        extra: Mapping[str, Tensor] | None = None,
        return_trajectory: bool = False,
    ) -> dict[str, Any]:
        """Answers a batch of B rows. A row that halts leaves it; the rest goes on, ``max_steps`` at most.

        A row halts when its halting logit says so and ``accept(inputs, answers)``, bool (rows,), agrees.
        Returns ``solution`` (tokens int64 (B, L), or values (B, L, F)), ``confidence`` (B,), ``steps`` (B,),
        ``converged`` (B,), and with ``return_trajectory`` a ``trajectory``: for each step the answers and confidences
        of all rows at that time.
        ``trm_fast.Solver`` does more: tasks and their rules, rollouts, queues longer than a batch.
        """
        B, device = len(inputs), inputs.device
        solution: Tensor | None = None
        confidence = torch.zeros(B, device=device)
        steps = torch.zeros(B, dtype=torch.int64, device=device)
        converged = torch.zeros(B, dtype=torch.bool, device=device)
        trajectory: list[dict[str, Any]] = []
        most = self.config.max_supervision_steps if max_steps is None else max_steps
        agrees = None if accept is None else lambda rows, answers: accept(inputs[rows], answers)
        training = self.training
        self.eval()
        for result in run_steps(
            self, inputs, most, min_steps=min_steps, halt=halt, accept=agrees, puzzle_ids=puzzle_ids, extra=extra,
            runner=graphs_on(device) if device.type == "cuda" else None,
        ):  # fmt: skip
            if solution is None:
                solution = result.answers.new_zeros(B, *result.answers.shape[1:])
            rows = result.rows
            solution[rows], confidence[rows] = result.answers, result.confidence
            steps[rows], converged[rows] = result.steps, result.halted
            if return_trajectory:
                step = len(trajectory) + 1
                trajectory.append({"step": step, "solution": solution.clone(), "confidence": confidence.clone()})
        self.train(training)
        if solution is None:  # no rows, or no steps
            solution = self.head.answers(self.head(read_answer(self.net, self.initial_state(B))))
        found = {"solution": solution, "confidence": confidence, "steps": steps, "converged": converged}
        return found | ({"trajectory": trajectory} if return_trajectory else {})

    def incremental(self) -> Incremental:
        """A row that grows token by token, in a causal text model."""
        return Incremental(self)

    def save_pretrained(self, folder: str | os.PathLike[str], **sections: Any) -> None:
        """Writes ``config.json`` (configuration and further JSON ``sections``) and ``model.safetensors``."""
        save_model(self, folder, **sections)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], compute_dtype: torch.dtype = torch.float32) -> TRM:
        """The model of a folder that ``save_pretrained`` wrote; UserError where it is not one."""
        return load_model(cls, folder, compute_dtype)
