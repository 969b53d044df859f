"""The base class of optimizers, and the registry of the names that ``training.optimizer`` takes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import nan
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from trm_fast.models import TRMModel
from trm_fast.registry import Registry
from trm_fast.training.optimizers.part import Part
from trm_fast.training.optimizers.states import check_group, check_state_dict
from trm_fast.validation import Section

OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer")
register = OPTIMIZERS.register


class Options(Section):
    """``training.optimizer_options``. A subclass adds the options of its optimizer."""


class Optimizer(torch.optim.Optimizer, ABC):
    """A ``torch.optim.Optimizer`` whose step can be captured in a CUDA graph, because it copies no values to the host.

    It works in loops that are written for torch's optimizers: with parameter groups, whose ``lr``, ``betas`` and
    ``weight_decay`` may differ and change, with learning-rate schedulers, closures and ``state_dict``. A parameter
    without gradient, or with ``requires_grad=False``, keeps its value and its state.

    A subclass implements ``_new_state`` and ``_update``. It sets the attributes that ``_new_state`` reads before it
    calls this constructor.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, a number or a tensor ().
        betas: decay of the averages of gradients and of their squares. Optimizers without squares use only the first.
        weight_decay: decoupled, multiplied by the learning rate (arXiv 1711.05101).
        ema_decay: decay of the averaged weights; None: no average.
        rates: factors of the parameters' learning rates, by default 1.

    Attributes:
        step_count, steps: float32 tensors: the number of steps (), and the number of steps in which each parameter had
            a gradient, in the order of the parameters.
        state: for each parameter its state tensors by name; the averaged weights are ``ema``.
        rates: as the argument, in the order of the parameters.

    Raises:
        TypeError: a parameter is not floating-point.
        ValueError: a setting is out of its range, or the number of ``rates`` is not that of the parameters.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1.0,
        ema_decay: float | None = None,
        *,
        rates: Sequence[float] | None = None,
    ) -> None:
        self.ema_decay = ema_decay
        self.rates: list[float] = []
        self.copies: list[Tensor | None] | None = None
        self.interleave: list[int] | None = None
        self._lrs: list[Tensor] = []  # the learning rate of each group, which a captured step reads
        self._lr_numbers: list[float] = []  # the number that each of them was last filled with
        # Parameters with the same number have missed the same steps, so that their ``steps``, which the host must not
        # read, are equal. Those with 0 have missed none.
        self._missed_alike: list[int] = []
        # Which parameters have gradients -> the parts of the step.
        self._layouts: dict[tuple[bool, ...], list[tuple[int, float, int, list[int]]]] = {}
        self._constructed = False
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self._constructed = True
        if rates is not None:
            if len(rates) != len(self.rates):
                raise ValueError(f"{len(rates)} rates for {len(self.rates)} parameters")
            self.rates = [default if rate == 1 else rate for rate, default in zip(rates, self.rates, strict=True)]

    @classmethod
    def for_model(cls, model: TRMModel, lr: float, **keywords: Any) -> Self:
        """Creates an optimizer of a model's parameters. A subclass overrides it to treat some of them differently."""
        return cls(model.parameters(), lr, **keywords)

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, whose first step is the next one. Settings that the group lacks are the optimizer's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_group(group)
        params: list[Tensor] = group["params"]
        device = next((p.device for p in params), torch.device("cpu"))
        if not self._lrs:
            self.step_count = torch.zeros((), dtype=torch.float32, device=device)
            self.steps = torch.zeros(0, dtype=torch.float32, device=device)
        lr = group["lr"]
        if isinstance(lr, Tensor):
            group["lr"] = lr = lr.detach().to(device, torch.float32, copy=True).reshape(())  # groups share the default
        self._lrs.append(lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float32, device=device))
        self._lr_numbers.append(nan if isinstance(lr, Tensor) else lr)
        self.steps = torch.cat((self.steps, self.steps.new_zeros(len(params))))
        self._missed_alike += [max(self._missed_alike, default=0) + 1 if self._constructed else 0] * len(params)
        self.rates += [self._default_rate(p, lr) for p in params]
        self._layouts = {}
        for p in params:
            self.state[p] = self._new_state(p) | ({} if self.ema_decay is None else {"ema": p.detach().clone()})
        if self.copies is not None and self.interleave is not None:
            self.copies += [None] * len(params)
            self.interleave += [0] * len(params)

    @property
    def lr(self) -> Tensor:
        """The learning rate of the first group, a float32 tensor () that a captured step reads.

        From the first access on, ``param_groups[0]["lr"]`` is this tensor. Set it with ``optimizer.lr.fill_(...)``.
        """
        tensor = self.param_groups[0]["lr"] = self._group_lr(0)
        self._lr_numbers[0] = nan
        return tensor

    @property
    def weights(self) -> list[Tensor]:
        """Detached views of the parameters, which can be written in place."""
        return [p.detach() for p in self._params()]

    @property
    def ema(self) -> list[Tensor] | None:
        """The averaged weights in the order of the parameters, or None."""
        return None if self.ema_decay is None else [self.state[p]["ema"] for p in self._params()]

    @property
    def averaged(self) -> list[Tensor]:
        """The weights that evaluation uses: the averaged ones, or the weights if there is no average."""
        return self.weights if self.ema is None else self.ema

    @property
    def slots(self) -> dict[str, list[Tensor | None]]:
        """State tensors by their name in a checkpoint: lists in the order of the parameters, with None for parameters
        without that state."""
        states = [self.state[p] for p in self._params()]
        names = dict.fromkeys(name for state in states for name in state if name != "ema")
        return {name: [state.get(name) for state in states] for name in names}

    def write_copies(self, copies: list[Tensor | None], interleave: list[int]) -> None:
        """From now on, each step also writes the new weights to ``copies``: matrices in low precision or None, in the
        order of the parameters. ``ops.adam_atan2_`` documents both arguments."""
        self.copies, self.interleave = list(copies), list(interleave)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, grad_scale: Tensor | None = None) -> Any:
        """Updates every parameter that has a gradient. The averages of the other ones follow their weights.

        Args:
            closure: computes the loss and the gradients, with gradients enabled.
            grad_scale: multiplies the gradients, (); or None.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = self._params()
        grads = [p.grad if p.requires_grad else None for p in params]
        if any(grad is not None and grad.is_sparse for grad in grads):
            raise RuntimeError("sparse gradients are not supported: make the embedding with sparse=False")
        self.step_count += 1
        self.steps += 1
        if any(grad is None for grad in grads):
            self._miss(params, [grad is not None for grad in grads])
        for part in self._parts(params, grads, grad_scale):
            self._update(part)
        return loss

    def _default_rate(self, p: Tensor, lr: float | Tensor) -> float:
        """The factor of a parameter's learning rate, in a group with the rate ``lr``."""
        return 1.0

    @abstractmethod
    def _new_state(self, p: Tensor) -> dict[str, Tensor]:
        """The state tensors of a parameter before its first step, by their names in a checkpoint."""

    @abstractmethod
    def _update(self, part: Part) -> None:
        """Updates weights and states in place. It ends with ``part.finish()``, unless a fused op does its work."""

    def _params(self) -> list[Tensor]:
        params = [p for group in self.param_groups for p in group["params"]]
        if len(params) != len(self.rates):
            raise RuntimeError(f"{len(params)} parameters instead of {len(self.rates)}: use add_param_group")
        return params

    def _group_lr(self, number: int) -> Tensor:
        """The learning rate () of a group. ``param_groups[number]["lr"]`` may be a number or a tensor."""
        value, tensor = self.param_groups[number]["lr"], self._lrs[number]
        if isinstance(value, Tensor):
            self._lr_numbers[number] = nan
            if value is not tensor:
                tensor.copy_(value.detach().reshape(()))
        elif value != self._lr_numbers[number]:
            tensor.fill_(value)
            self._lr_numbers[number] = value
        return tensor

    def _miss(self, params: list[Tensor], present: list[bool]) -> None:
        """Counts a step that parameters without gradient miss."""
        start = 0
        for has_gradient, run in groupby(present):
            end = start + len(list(run))
            if not has_gradient:
                self.steps[start:end].sub_(1)
            start = end
        numbers = {(0, True): 0}
        alike = [numbers.setdefault(pair, len(numbers)) for pair in zip(self._missed_alike, present, strict=True)]
        if alike != self._missed_alike:
            self._missed_alike, self._layouts = alike, {}
        if self.ema_decay is not None:
            for p, has_gradient in zip(params, present, strict=True):
                if not has_gradient:
                    self.state[p]["ema"].lerp_(p, 1 - self.ema_decay)

    def _parts(self, params: list[Tensor], grads: list[Tensor | None], grad_scale: Tensor | None) -> Iterator[Part]:
        """The parameters with gradients. Those that share all settings are in one part."""
        present = tuple(grad is not None for grad in grads)
        if present not in self._layouts:
            self._layouts[present] = self._layout(params, present)
        for number, rate, missed, indices in self._layouts[present]:
            group, lr, device = self.param_groups[number], self._group_lr(number), params[indices[0]].device
            step = self.steps[indices[0]] if missed else self.step_count
            yield Part(
                weights=[params[i].detach() for i in indices],
                grads=[grad for i in indices if (grad := grads[i]) is not None],
                states=[self.state[params[i]] for i in indices],
                lr=(lr if rate == 1 else lr * rate).to(device),
                step=step.to(device),
                betas=tuple(group["betas"]),
                weight_decay=group["weight_decay"],
                grad_scale=None if grad_scale is None else grad_scale.to(device),
                ema_decay=self.ema_decay,
                copies=[self.copies[i] for i in indices] if self.copies else [None] * len(indices),
                interleave=[self.interleave[i] for i in indices] if self.interleave else [0] * len(indices),
            )

    def _layout(self, params: list[Tensor], present: Sequence[bool]) -> list[tuple[int, float, int, list[int]]]:
        """The parts' group numbers, rates, numbers in ``_missed_alike`` and parameters."""
        numbers = [number for number, group in enumerate(self.param_groups) for _ in group["params"]]
        parts: dict[Any, list[int]] = {}
        for i, p in enumerate(params):
            if present[i]:
                key = numbers[i], self.rates[i], self._missed_alike[i], p.dtype, p.device
                parts.setdefault(key, []).append(i)
        return [(*key[:3], indices) for key, indices in parts.items()]

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state in the form of torch's optimizers. ``step`` is each parameter's number of steps."""
        packed = copy.deepcopy(super().state_dict())
        states, steps = packed["state"], self.steps.clone().unbind()
        packed["state"] = {i: {"step": step.clone(), **states[i]} for i, step in enumerate(steps)}
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies a state that ``state_dict`` returned, also one of a torch optimizer with the same state tensors.
        Parameters without a step in it start again.

        Raises:
            ValueError: it does not fit this optimizer; nothing is changed.
        """
        params = self._params()
        tensors = {p: self.state[p] for p in params}
        check_state_dict(state_dict, self.param_groups, list(tensors.values()))
        lrs = [group["lr"] for group in self.param_groups]
        super().load_state_dict(dict(state_dict))
        loaded, self.state = self.state, defaultdict(dict, tensors)
        steps = [float(loaded[p].get("step", 0)) if p in loaded else 0.0 for p in params]
        for p, state in tensors.items():  # a captured step reads these tensors
            for name, tensor in state.items():
                start = p if name == "ema" else torch.zeros_like(tensor)
                tensor.copy_(loaded[p].get(name, start) if p in loaded else start)
        self._set_steps(max(steps), steps)
        for number, (group, lr) in enumerate(zip(self.param_groups, lrs, strict=True)):
            for name, default in self.defaults.items():
                group.setdefault(name, default)
            if lr is self._lrs[number]:
                self._group_lr(number)
                group["lr"] = lr

    def _set_steps(self, total: float, steps: Sequence[float]) -> None:
        """Sets the number of steps, and that of each parameter."""
        self.step_count.fill_(total)
        self.steps.copy_(torch.tensor(steps))
        numbers = {total: 0}
        self._missed_alike = [numbers.setdefault(step, len(numbers)) for step in steps]
        self._layouts = {}

    def named_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors for a checkpoint without the average, by the parameters' ``names``: the number of steps, the
        states, and the own numbers of steps of parameters that missed some."""
        tensors, names, slots = {"step": self.step_count}, list(names), self.slots
        for i, name in enumerate(names):
            tensors |= {f"{slot}/{name}": t for slot, states in slots.items() if (t := states[i]) is not None}
        return tensors | {f"step/{name}": self.steps[i] for i, name in enumerate(names) if self._missed_alike[i]}

    def restore_steps(self, names: Iterable[str], tensors: Mapping[str, Tensor]) -> None:
        """Restores the numbers of steps from a checkpoint. ``named_tensors`` then has the names that it had when it was
        saved."""
        total = tensors["step"]
        self._set_steps(float(total), [float(tensors.get(f"step/{name}", total)) for name in names])

    def tensors(self) -> list[Tensor]:
        """All tensors that a step changes."""
        lists = [self.weights, self.copies or (), *self.slots.values(), self.ema or ()]
        return [t for tensors in lists for t in tensors if t is not None] + [self.step_count, self.steps]

    def __getstate__(self) -> dict[str, Any]:
        # torch's method would drop the attributes of this class. Not copied are hooks and the wrapped ``step`` of a
        # scheduler, which would belong to the original.
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "step" and not name.startswith("_optimizer_")
        }
