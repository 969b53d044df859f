"""The carry of deep supervision: what each slot of the batch works on, how far it is, and when it takes new data."""

from __future__ import annotations

import torch
from torch import Tensor

from trm_fast.models import ForwardOptions, Loss, Output, TRMModel
from trm_fast.models.halting import halting_rule
from trm_fast.models.trm import DEFAULT_OPTIONS
from trm_fast.nn import State
from trm_fast.tasks.base import Examples
from trm_fast.training.halting import halts
from trm_fast.training.pool import empty_rows


class Carry:
    """Slots of a training batch. All tensors are allocated once and changed in place, so that a step can be captured.

    ``state``, its parts (B, P + L, D or a width of its own); ``steps`` int32 (B,) supervision steps on the current
    example; ``halted`` bool (B,); ``rows``: the examples in flight, each array by its name. All slots start halted.
    ``kind``: examples of the shapes and dtypes that will come; their number does not matter.
    """

    def __init__(self, model: TRMModel, batch_size: int, kind: Examples) -> None:
        config, device = model.config, model.z_init.device
        y, z = (t if t is None else torch.zeros_like(t).contiguous() for t in model.initial_state(batch_size))
        self.state = State(y, z)  # type: ignore[arg-type]
        self.steps = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.halted = torch.ones(batch_size, dtype=torch.bool, device=device)
        self.rows = empty_rows(kind, batch_size, device)
        self.max_steps = config.max_supervision_steps
        self.halting = halting_rule(config.halting, config.q_threshold)

    def refill(self, fresh: dict[str, Tensor]) -> None:
        """Gives halted slots the examples at their places in a fresh batch."""
        for name, tensor in self.rows.items():
            halted = self.halted.view(-1, *(1,) * (tensor.dim() - 1))
            tensor.copy_(torch.where(halted, fresh[name], tensor))
        self.steps.masked_fill_(self.halted, 0)

    def supervise(
        self, model: TRMModel, rows: slice, options: ForwardOptions = DEFAULT_OPTIONS, *, arguments: bool = True
    ) -> tuple[Output, Loss, Tensor | None]:
        """One supervision step of some slots: forward and loss; the new state is kept.

        Without ``arguments`` a head that chooses tools leaves their arguments out of its loss.

        The third value is the leaf of the puzzle rows (B, E), whose ``grad`` the sparse update reads.
        """
        fresh = model.initial_state(1)
        halted = self.halted[rows, None, None]
        z = torch.where(halted, fresh.z, self.state.z[rows])
        y = None if fresh.y is None or self.state.y is None else torch.where(halted, fresh.y, self.state.y[rows])
        leaf = None
        if model.puzzle_embedding is not None:
            leaf = model.puzzle_embedding[self.rows["puzzle_ids"][rows]].requires_grad_()
        mine = {name: tensor[rows] for name, tensor in self.rows.items()}
        inputs, labels, _ = (mine.pop(name) for name in ("inputs", "labels", "puzzle_ids"))
        out = model(inputs, State(y, z), leaf, options=options, **mine)
        self.state.z[rows].copy_(out.state.z)
        if self.state.y is not None and out.state.y is not None:
            self.state.y[rows].copy_(out.state.y)
        return out, model.loss(out, labels, arguments=arguments, **mine), leaf

    def count_and_halt(self, q: Tensor, min_steps: Tensor, rows: slice) -> None:
        """Behind a supervision step of some slots: ``min_steps`` (B,) are those before which none halts."""
        steps = self.steps[rows]
        steps += 1
        self.halted[rows].copy_(halts(self.halting, q.detach(), steps, min_steps[rows], self.max_steps))

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint keeps."""
        kept = {"z": self.state.z, "steps": self.steps, "halted": self.halted} | self.rows
        return kept if self.state.y is None else kept | {"y": self.state.y}
