"""The base class of optimizers, and the registry of the names that ``training.optimizer`` takes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from trm_fast.models import TRMModel
from trm_fast.ops.packing import interleaved_rows
from trm_fast.registry import Registry
from trm_fast.validation import Section

OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer")
register = OPTIMIZERS.register


class Options(Section):
    """``training.optimizer_options``. A subclass adds the options of its optimizer."""


class Optimizer(torch.optim.Optimizer, ABC):
    """A ``torch.optim.Optimizer`` whose step can be captured in a CUDA graph, because it copies no values to the host.

    A subclass fills ``slots`` and implements ``_update``, which ends with ``_finish`` unless a fused op does its work.

    Args:
        params: the parameters, which form a single group.
        lr: learning rate.
        betas: decay of the averages of gradients and of their squares. Optimizers without squares use only the first.
        weight_decay: decoupled, multiplied by the learning rate (arXiv 1711.05101).
        ema_decay: decay of the averaged weights; None: no average.
        rates: factors of the parameters' learning rates, by default 1.

    Attributes:
        lr, step_count: float32 tensors (), whose current values a captured step reads. Set the learning rate with
            ``optimizer.lr.fill_(...)``.
        slots: state tensors by their name in a checkpoint: lists in the order of the parameters, with None for
            parameters without that state.
        ema: the averaged weights in the order of the parameters, or None.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1.0,
        ema_decay: float | None = None,
        *,
        rates: Sequence[float] | None = None,
    ) -> None:
        weights = list(params)
        self.rates = [1.0] * len(weights) if rates is None else list(rates)
        if len(self.rates) != len(weights):
            raise ValueError(f"{len(self.rates)} rates for {len(weights)} parameters")
        super().__init__(weights, {})
        device = weights[0].device
        self.lr = torch.tensor(lr, dtype=torch.float32, device=device)
        self.step_count = torch.zeros((), dtype=torch.float32, device=device)
        self.betas, self.weight_decay, self.ema_decay = betas, weight_decay, ema_decay
        self.slots: dict[str, list[Tensor | None]] = {}
        self.ema = [w.clone() for w in self.weights] if ema_decay is not None else None
        self.copies: list[Tensor | None] | None = None
        self.interleave: list[int] | None = None

    @classmethod
    def for_model(cls, model: TRMModel, lr: float, **keywords: Any) -> Self:
        """Creates an optimizer of a model's parameters. A subclass overrides it to treat some of them differently."""
        return cls(model.parameters(), lr, **keywords)

    @property
    def weights(self) -> list[Tensor]:
        """Detached views of the parameters, which can be written in place."""
        return [p.detach() for p in self.param_groups[0]["params"]]

    @property
    def averaged(self) -> list[Tensor]:
        """The weights that evaluation uses: the averaged ones, or the weights if there is no average."""
        return self.weights if self.ema is None else self.ema

    def write_copies(self, copies: list[Tensor | None], interleave: list[int]) -> None:
        """From now on, each step also writes the new weights to ``copies``: matrices in low precision or None, in the
        order of the parameters. ``ops.adam_atan2_`` documents both arguments."""
        self.copies, self.interleave = copies, interleave

    @torch.no_grad()
    def step(self, closure: None = None, *, grad_scale: Tensor | None = None) -> None:  # type: ignore[override]
        """Updates every weight from its ``grad``, multiplied by ``grad_scale`` () if given. A missing ``grad`` counts
        as zero."""
        params = self.param_groups[0]["params"]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        self.step_count += 1
        self._update(self.weights, grads, grad_scale)

    @abstractmethod
    def _update(self, weights: list[Tensor], grads: list[Tensor], grad_scale: Tensor | None) -> None:
        """Updates weights, slots, average and copies in place."""

    def _rate(self, index: int) -> Tensor:
        """The learning rate () of one parameter."""
        return self.lr if self.rates[index] == 1 else self.lr * self.rates[index]

    def _finish(self, weights: list[Tensor], indices: Iterable[int]) -> None:
        """Updates the averages and copies of some parameters, after their weights."""
        for i in indices:
            weight = weights[i]
            if self.ema is not None and self.ema_decay is not None:
                self.ema[i].lerp_(weight, 1 - self.ema_decay)
            copy = None if self.copies is None else self.copies[i]
            if copy is not None and self.interleave is not None:
                rows = interleaved_rows(len(weight), self.interleave[i], weight.device)
                copy[rows, : weight.shape[1]] = weight.to(copy.dtype)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, including ``ema``, for ``load_state_dict`` of an optimizer of the same weights."""
        return copy.deepcopy(self._state())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies a state that ``state_dict`` returned.

        Raises:
            ValueError: only one of the two optimizers averages weights.
        """
        for name, value in self._state().items():
            source = state_dict[name]
            if (value is None) != (source is None):
                raise ValueError("one of the optimizers averages weights and the other does not")
            pairs = [(value, source)] if isinstance(value, Tensor) else zip(value or (), source or (), strict=True)
            for tensor, saved in pairs:
                if tensor is not None:
                    tensor.copy_(saved)

    def _state(self) -> dict[str, Any]:
        return {"lr": self.lr, "step_count": self.step_count, **self.slots, "ema": self.ema}

    def named_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors for a checkpoint without the average, by the parameters' ``names``."""
        tensors, names = {"step": self.step_count}, list(names)
        pairs = [(i, name, slot) for i, name in enumerate(names) for slot in self.slots]
        return tensors | {f"{s}/{name}": t for i, name, s in pairs if (t := self.slots[s][i]) is not None}

    def tensors(self) -> list[Tensor]:
        """All tensors that a step changes."""
        lists = [self.weights, self.copies or (), *self.slots.values(), self.ema or ()]
        return [t for tensors in lists for t in tensors if t is not None] + [self.step_count]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # torch's method would drop the attributes of this class
