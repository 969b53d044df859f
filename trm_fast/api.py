"""``trm_fast.TRM``: the model with methods that solve, train, save and load."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trm_fast import hub
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.inference.capture import graphs_on
from trm_fast.inference.incremental import Incremental
from trm_fast.inference.steps import run_steps
from trm_fast.models import TRMConfig, TRMModel
from trm_fast.models.halting import halting_rule
from trm_fast.models.saving import load_model, read_model_config, save_model
from trm_fast.nn.recursion import read_answer
from trm_fast.pretrained import NAMES, model_folder
from trm_fast.run_folder import MODEL
from trm_fast.tasks import Task, make_task

if TYPE_CHECKING:
    from trm_fast.training.optimizers import AdamATan2


class TRM(TRMModel):
    """A Tiny Recursive Model (arXiv 2510.04871).

    Args:
        config: shapes and depth of the model.
        compute_dtype: dtype of the state and all activations, float32 or bfloat16. Weights are float32.

    Examples:
        >>> import torch
        >>> from trm_fast import TRM, TRMConfig
        >>> model = TRM(TRMConfig(vocab_size=5, seq_len=4, hidden_size=8, inner_multiple=8))
        >>> result = model.solve(torch.randint(1, 5, (2, 4)), max_steps=1)
        >>> result["solution"].shape
        torch.Size([2, 4])
    """

    def __init__(self, config: TRMConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config, compute_dtype)
        self._optimizer: AdamATan2 | None = None  # for train_step without an optimizer
        self.remember_task(None, None)

    def train_step(
        self,
        inputs: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer | None = None,
        puzzle_ids: Tensor | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> dict[str, float]:
        """Trains on one batch with deep supervision: up to ``max_supervision_steps`` optimizer steps.

        It stops when the halting rule stops every row. ``trm_fast.Trainer`` does more: it refills halted slots,
        averages weights, follows schedules and saves checkpoints.

        Args:
            inputs: tokens int (B, L), or values (B, L, F).
            labels: (B, L), or in the shape that the model's head takes.
            optimizer: by default an ``AdamATan2`` that the model creates and keeps.
            puzzle_ids: int (B,), rows of the puzzle embedding; row 0 by default.
            extra: further arrays (B, ...) that the model takes, such as ``mask`` bool (B, L) or ``roles`` int (B, L).

        Returns:
            ``loss`` per row, ``accuracy`` of cells and ``exact_accuracy``, all at the last step, and ``steps``, the
            number of steps.

        Raises:
            UserError: the model needs an array that ``extra`` does not have, or it has several initial states.
        """
        if self.config.initial_states > 1:
            raise UserError("train_step trains a single initial state; trm_fast.Trainer trains several")
        arrays = dict(extra or {})
        self._check_arrays(arrays)
        if optimizer is None:
            from trm_fast.training.optimizers import AdamATan2  # here, because solving does not need the training

            optimizer = self._optimizer = self._optimizer or AdamATan2(self.parameters())
        rule = halting_rule(self.config.halting, self.config.q_threshold)
        memory = rule.memory(len(inputs), inputs.device)
        state, rows = self.initial_state(len(inputs)), self.puzzle_rows(puzzle_ids, len(inputs))
        scales = self.head.scales(labels, len(inputs))
        loss_options = arrays | ({"scales": scales} if scales else {})
        for steps in range(1, self.config.max_supervision_steps + 1):
            optimizer.zero_grad()
            out = self(inputs, state, rows, **arrays)
            state, loss = out.state, self.loss(out, labels, **loss_options)
            (loss.total / len(inputs)).backward()
            optimizer.step()
            taken = torch.full_like(out.q, steps, dtype=torch.int32)
            if bool(rule.should_halt(out.q.detach(), taken, partial(self.head.answers, out.logits), memory).all()):
                break
        return {
            "loss": loss.total.item() / len(inputs),
            "accuracy": loss.cells.mean().item(),
            "exact_accuracy": loss.exact.float().mean().item(),
            "steps": steps,
        }

    def _check_arrays(self, extra: Mapping[str, Tensor]) -> None:
        if missing := [name for name in self.array_names if name not in extra]:
            raise UserError(f"this model also reads {', '.join(missing)}: give them by name, as extra={{...}}")

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
        """Answers a batch of B rows. Rows that halt leave the batch; the others continue.

        ``trm_fast.Solver`` does more: it uses a task's rules, makes several tries, and takes queues longer than a
        batch.

        Args:
            inputs: tokens int (B, L), or values (B, L, F).
            max_steps: maximum number of supervision steps; by default that of the configuration.
            halt: if False, every row runs all steps.
            min_steps: minimum number of supervision steps before a row may halt.
            accept: a row that the halting rule stops halts only if ``accept(inputs, answers)``, bool (rows,), is True.
            puzzle_ids: int (B,), rows of the puzzle embedding; row 0 by default.
            extra: further arrays (B, ...) that the model takes, such as ``mask`` bool (B, L).
            return_trajectory: whether to return the answers after every step, too.

        Returns:
            ``solution``, tokens int64 (B, L) or values (B, L, F); ``confidence`` float32 (B,); ``steps`` int64 (B,);
            ``converged`` bool (B,); with ``return_trajectory`` also ``trajectory``, a list of the ``solution`` and
            ``confidence`` of all rows after each step.

        Raises:
            UserError: the model needs an array that ``extra`` does not have.
        """
        self._check_arrays(extra or {})
        B, device = len(inputs), inputs.device
        solution: Tensor | None = None
        confidence = torch.zeros(B, device=device)
        steps = torch.zeros(B, dtype=torch.int64, device=device)
        converged = torch.zeros(B, dtype=torch.bool, device=device)
        trajectory: list[dict[str, Any]] = []
        limit = self.config.max_supervision_steps if max_steps is None else max_steps

        def both(rows: Tensor, answers: Tensor, halted: Tensor) -> Tensor:
            return halted & accept(inputs[rows], answers) if accept is not None and bool(halted.any()) else halted

        training = self.training
        self.eval()
        for step_result in run_steps(
            self, inputs, limit, min_steps=min_steps, halt=halt, accept=None if accept is None else both,
            puzzle_ids=puzzle_ids, extra=extra,
            runner=graphs_on(device) if device.type == "cuda" else None,
        ):  # fmt: skip
            if solution is None:
                solution = step_result.answers.new_zeros(B, *step_result.answers.shape[1:])
            rows = step_result.rows
            solution[rows], confidence[rows] = step_result.answers, step_result.confidence
            steps[rows], converged[rows] = step_result.steps, step_result.halted
            if return_trajectory:
                step = len(trajectory) + 1
                trajectory.append({"step": step, "solution": solution.clone(), "confidence": confidence.clone()})
        self.train(training)
        if solution is None:  # no rows, or no steps
            solution = self.head.answers(self.head(read_answer(self.net, self.initial_state(B))))
        result = {"solution": solution, "confidence": confidence, "steps": steps, "converged": converged}
        return result | ({"trajectory": trajectory} if return_trajectory else {})

    def incremental(self) -> Incremental:
        """Starts decoding one row token by token with a causal text model.

        Raises:
            ValueError: the model is not causal, has no text head, or has a prefix or learned positions.
        """
        return Incremental(self)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        task: str | Mapping[str, Any] | Task | None = None,
        **sections: Any,
    ) -> None:
        """Writes ``config.json`` and ``model.safetensors``.

        Args:
            folder: the folder to write to.
            task: what the model solves: a task, its name, or its section such as ``{"name": "sudoku", "size": 4}``. By
                default that of a model which was loaded. ``trm-fast solve`` needs it.
            sections: further JSON sections of ``config.json``.

        Raises:
            UserError: there is no such task, it does not fit the model, or a file cannot be written.
        """
        if task is not None:
            chosen = make_task(task, "task") if isinstance(task, str | Mapping) else task
            Solver(self, chosen)  # reports a task that does not fit
            self.remember_task(chosen, chosen.config.model_dump(mode="json"))
        if self._section is not None:
            sections = {"task": self._section, **sections}
        save_model(self, folder, None if self._task is None else self._task.save_assets, **sections)

    @property
    def task(self) -> Task | None:
        """The task that the model was trained for, with what it learned from its data; None if it is not known."""
        return self._task

    def remember_task(self, task: Task | None, section: dict[str, Any] | None) -> None:
        """Sets the task that ``save_pretrained`` saves. If the task cannot be used here, only its section is known."""
        self._task, self._section = task, section

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        compute_dtype: torch.dtype = torch.float32,
        *,
        revision: str | None = None,
    ) -> TRM:
        """Loads a model, in evaluation mode.

        Args:
            folder: a folder that ``save_pretrained`` wrote; the name of a model that ships with the package; or
                ``org/name``, a repository of the Hugging Face hub (``trm_fast.hub``), if there is no such folder.
            compute_dtype: dtype of the state and all activations.
            revision: the branch, tag or commit of a repository; by default its main branch.

        Raises:
            UserError: the folder holds no model, or a damaged one; or the hub has no such model.
        """
        path = model_folder(folder)
        name = None if path.exists() else hub.remote(f"{folder}@{revision}" if revision else str(folder))
        if revision is not None and name is None:
            raise UserError(f"revision {revision} is for models of the hub (org/name), and {folder} is not one")
        if name is not None:
            path = hub.download(name)
        if not path.exists():
            raise UserError(f"there is no folder {path}; models that ship: {', '.join(NAMES)}")
        if not (path / "config.json").exists() and (path / MODEL / "config.json").exists():
            raise UserError(f"{path} is a run, not a model: its model is {path / MODEL}")
        model = load_model(cls, path, compute_dtype)
        try:
            task = task_of(path)
        except UserError:  # it cannot be used here; its module may be missing
            task = None
        model.remember_task(task, read_model_config(path).get("task"))
        return model


def task_of(folder: Path) -> Task | None:
    """The task of a model folder, with its files; None if the folder names no task.

    Raises:
        UserError: the task cannot be used here, or its section or files are damaged.
    """
    section = read_model_config(folder).get("task")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        return None
    task = make_task(section, str(folder / "config.json"))
    task.load_assets(folder)
    return task
