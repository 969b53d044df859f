"""The recursion: applies the network repeatedly, with the fused op if it is available."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.nn.block import Network, Port
from trm_fast.nn.precision import CAST_AT_USE, Precision
from trm_fast.ops import packing
from trm_fast.ops._core import dispatch


class State(NamedTuple):
    """The answer state ``y`` and the latent state ``z``, each (B, L, D) or of a configured width. In single state, y is
    None."""

    y: Tensor | None
    z: Tensor

    @property
    def answer(self) -> Tensor:
        """The state that the heads read."""
        return self.z if self.y is None else self.y

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Applies a function to y and to z."""
        return State(None if self.y is None else function(self.y), function(self.z))

    def detach(self) -> State:
        """The state without gradients."""
        return self.map(Tensor.detach)

    def combine(self, other: State, function: Callable[[Tensor, Tensor], Tensor]) -> State:
        """Applies ``function(self, other)`` to y and to z."""
        y = None if self.y is None or other.y is None else function(self.y, other.y)
        return State(y, function(self.z, other.z))

    def positions(self, count: int) -> State:
        """The first ``count`` positions."""
        return self.map(lambda t: t[:, :count])

    def extended(self, whole: State) -> State:
        """This state followed by the remaining positions of ``whole``."""
        count = self.z.shape[1]
        if count == whole.z.shape[1]:
            return self
        return self.combine(whole, lambda part, all_positions: torch.cat((part, all_positions[:, count:]), 1))

    def rows(self, index: Tensor | slice) -> State:
        """The state of some rows of the batch."""
        return self.map(lambda t: t[index])


class Fusion(Enum):
    """Whether and how ``ops.latent_recursion`` replaces a network's modules."""

    NONE = "not at all"
    PLAIN = "with the weights in the states' dtype"
    FLOAT32 = "with the float32 weights, which its kernels round"
    PACKED = "with the weights packed for its kernels"


def fusion(net: Network, z: Tensor, masked: bool = False) -> Fusion:
    """Whether and how ``ops.latent_recursion`` can compute the network on states like ``z``. The result depends on
    whether gradients are enabled now. ``masked``: whether there is padding."""
    config, op = net.config, "latent_recursion"
    if config.norm_position == "pre" or config.activation != "swiglu" or (config.dropout and net.training):
        return Fusion.NONE
    if not dispatch.has_kernel(op, z, masked or config.causal):
        return Fusion.NONE
    if (backend := dispatch.select(op, z)) != "cuda":
        return Fusion.FLOAT32 if backend == "cpp" else Fusion.PLAIN
    if packing.unsupported_reason(z, net.weights(), token_mixer=net.over_tokens) is None:
        return Fusion.PACKED
    return Fusion.NONE if dispatch.general_kernel(op, z) == "reference" else Fusion.PLAIN


class Recursion:
    """Runs cycles of a network. The constructor decides how, which depends on whether gradients are enabled then.

    Args:
        net: the network.
        z: a state of the shape, dtype and device to compute on.
        mask: bool (B, L), False for padding; or None.
        latent_steps: number of latent steps per cycle.
        precision: how products read the weights.
    """

    def __init__(
        self, net: Network, z: Tensor, mask: Tensor | None, latent_steps: int, precision: Precision = CAST_AT_USE
    ) -> None:
        self.net, self.z, self.mask, self.latent_steps = net, z, mask, latent_steps
        self.fusion, self.precision = Fusion.NONE, precision
        if precision.fuses_channels:
            self.fusion = fusion(net, z, mask is not None)
            if self.fusion in (Fusion.NONE, Fusion.PLAIN):
                self.precision = precision.cast_scope(net.weights(), z.dtype)
        if self.fusion is not Fusion.NONE:
            self._options = net.op_options(z.shape[1])

    def without_gradient(self, precision: Precision | None = None) -> Recursion:
        """The recursion for cycles without gradient, which more kernels support; by default in the same precision."""
        with torch.no_grad():
            return Recursion(self.net, self.z, self.mask, self.latent_steps, precision or self.precision)

    def run(self, state: State, x: Tensor, count: int = 1) -> State:
        """Runs ``count`` cycles, in one call if the network is fused; x (B, L, D) is the input embedding."""
        if not count or self.fusion is Fusion.NONE or self.net.latent is not None:
            for _ in range(count):
                state = self._cycle(self.apply, state, x)
            return state
        weights, packed = self._operands(x.dtype)
        y, z = ops.latent_recursion(
            *state, x, weights, self.latent_steps, inject_last=self.net.config.inject_last, cycles=count, packed=packed,
            mask=self.mask, **self._options,
        )  # fmt: skip
        return State(y, z)

    def run_recomputed(self, state: State, x: Tensor) -> State:
        """Runs one cycle that saves only the input of each application of the network. The backward computes the
        applications again."""
        weights, without_gradient = list(self.net.parameters()), self.without_gradient()

        def apply(h: Tensor) -> Tensor:
            result: Tensor = Recomputed.apply(without_gradient, self, h, *weights)
            return result

        return self._cycle(apply, state, x)

    def apply(self, h: Tensor) -> Tensor:
        """Applies the network once to h (B, L, D), with the fused op if there is one."""
        if self.fusion is Fusion.NONE:
            result: Tensor = self.net(h, self.mask, self.precision)
            return result
        # In single state without inject_last, a cycle of no latent steps is one application.
        weights, packed = self._operands(h.dtype)
        return ops.latent_recursion(
            None, h, h.detach(), weights, 0, inject_last=False, packed=packed, mask=self.mask, **self._options
        )[1]

    def _operands(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor] | None]:
        """The weights for the op, and its packed weights if it reads them and there are copies."""
        weights = self.net.weights()
        if self.fusion is Fusion.FLOAT32:
            return weights, None
        if self.fusion is Fusion.PACKED:
            return weights, self.precision.packed
        return [self.precision.cached_cast(weight, dtype) for weight in weights], None

    def _cycle(self, apply: Callable[[Tensor], Tensor], state: State, x: Tensor) -> State:
        return cycle(apply, self.net, state, x, self.latent_steps, self.precision)


def cycle(
    apply: Callable[[Tensor], Tensor], net: Network, state: State, x: Tensor, latent_steps: int, precision: Precision
) -> State:
    """Runs one cycle (paper, figure 3): z = net(z + y + x) n times, then y = net(y + z). ``apply`` computes net.

    In single state: z = net(z + x) n times, then once more with or without x (``inject_last``). Ports convert states
    of other widths.
    """
    latent, answer = net.latent, net.answer
    y = None if state.y is None else _read(answer, state.y, precision)
    z, injection = state.z, x if y is None else y + x
    for _ in range(latent_steps):
        z = _write(latent, apply(_read(latent, z, precision) + injection), precision)
    h = _read(latent, z, precision)
    if y is None:
        return State(None, _write(latent, apply(h + x if net.config.inject_last else h), precision))
    return State(_write(answer, apply(y + h), precision), z)


def read_answer(net: Network, state: State, precision: Precision = CAST_AT_USE) -> Tensor:
    """The answer state (B, L, D) that the heads read, converted to the network's width."""
    return _read(net.latent if state.y is None else net.answer, state.answer, precision)


def _read(port: Port | None, state: Tensor, precision: Precision) -> Tensor:
    return state if port is None else port.read(state, precision)


def _write(port: Port | None, h: Tensor, precision: Precision) -> Tensor:
    return h if port is None else port.write(h, precision)


class Recomputed(torch.autograd.Function):
    """Applies a network, saves only its input, and computes the application again in the backward.

    Unlike ``torch.utils.checkpoint``, it does not read the random state, so that it can be captured. The network must
    not draw random numbers.
    """

    @staticmethod
    def forward(ctx: Any, without_gradient: Recursion, with_gradient: Recursion, h: Tensor, *weights: Tensor) -> Tensor:
        ctx.recursion = with_gradient
        ctx.save_for_backward(h, *weights)
        with torch.no_grad():
            return without_gradient.apply(h)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        h, *weights = ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradients will be differentiated
        with torch.enable_grad():
            h = h.view_as(h) if again else h.detach().requires_grad_()
            y = ctx.recursion.apply(h)
        inputs = [t for t in (h, *weights) if t.requires_grad]
        gradients = iter(torch.autograd.grad(y, inputs, dy, create_graph=again, allow_unused=True))
        return None, None, *(next(gradients) if t.requires_grad else None for t in (h, *weights))
