"""The tiny inputs that a kernel is checked on and the larger ones that it is timed on, for every op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

Results = dict[str, Tensor]


class Case(NamedTuple):
    """One call of an op: random inputs of these shapes, the first ``differentiable`` of them with gradients."""

    shapes: Sequence[tuple[int, ...]]
    differentiable: int
    call: Callable[..., Tensor]  # (op, *inputs) -> the output
    integers: Callable[[], list[Tensor]] = list  # further inputs that are no floats
    backends: Sequence[str] = ("cpp", "cuda", "triton")  # those whose kernels take such a call

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        floats = [_random(shape, generator).to(dtype) for shape in self.shapes]
        return [*floats, *(t.to(device) for t in self.integers())]

    def run(self, op: Callable[..., Any], inputs: Sequence[Tensor]) -> Results:
        """The output, and the gradients under a random one."""
        leaves, wanted = self._leaves(inputs)
        out = self.call(op, *leaves)
        grad = _random(out.shape, torch.Generator(out.device).manual_seed(1), weight=False).to(out.dtype)
        gradients = torch.autograd.grad(out, wanted, grad) if wanted else ()
        return {"output": out.detach()} | {f"gradient {i}": g for i, g in enumerate(gradients)}

    def work(self, op: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[[], None]:
        """The call and its gradients again and again, on the same tensors: all that is timed."""
        leaves, wanted = self._leaves(inputs)
        with torch.no_grad():
            grad = torch.randn_like(self.call(op, *leaves)) if wanted else None

        def once() -> None:
            out = self.call(op, *leaves)
            if wanted:
                torch.autograd.grad(out, wanted, grad)

        return once

    def _leaves(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Copies, and those that gradients are wanted of."""
        leaves = [t.detach().clone().requires_grad_(i < self.differentiable) for i, t in enumerate(inputs)]
        return leaves, leaves[: self.differentiable]


def _random(shape: Sequence[int], generator: torch.Generator, weight: bool = True) -> Tensor:
    """Normal numbers; a matrix is a weight, whose products keep their input's size."""
    values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device=generator.device)
    return values / shape[-1] ** 0.5 if weight and len(shape) == 2 else values


def _network(op: Callable[..., Any], *inputs: Tensor, states: int, **options: Any) -> Tensor:
    out = op(*inputs[:states], inputs[states:], *options.pop("more", ()), **options)
    return torch.cat(out) if isinstance(out, tuple) else out


def _adam(op: Callable[..., Any], p: Tensor, g: Tensor, m: Tensor, v: Tensor, ema: Tensor) -> Tensor:
    lists = [list(t.unbind()) for t in (p.clone(), g, m.clone(), v.square(), ema.clone())]
    lr, step, scale = (torch.full((), x, device=p.device) for x in (1e-2, 3.0, 0.5))  # made there: no copy to wait for
    with torch.no_grad():
        op(*lists[:4], lr, step, ema=lists[4], ema_decay=0.9, weight_decay=0.1, grad_scale=scale)
    return torch.stack([t for i in (0, 2, 3, 4) for t in lists[i]])


def _sign_sgd(op: Callable[..., Any], weight: Tensor, grads: Tensor, ids: Tensor) -> Tensor:
    table = weight.clone()
    with torch.no_grad():
        op(table, grads, ids, torch.full((), 0.01, device=weight.device), 0.1)
    return table


def _padding() -> list[Tensor]:
    return [torch.arange(19) % 7 < torch.tensor([[7], [4]])]


def _masked_step(op: Callable[..., Any], z: Tensor, x: Tensor, *rest: Tensor, heads: int) -> Tensor:
    *weights, mask = rest
    out: Tensor = op(z, x, weights, heads=heads, mask=mask, causal=heads > 0)
    return out


def _labels() -> list[Tensor]:
    return [torch.tensor([[0, 10, -100, 3, 4], [7, -100, 1, 2, 9]])]


# D = 128 is the narrowest that the fused CUDA layers take; 19 tokens and odd widths take every path with a rest.
_MIXER = [(64, 19), (19, 32)]
_MLP = [(128, 128), (128, 64)]
_ATTENTION = [(384, 128), (128, 128)]
_STATE = (2, 19, 128)
_PAPER = (2, 97, 128)
_PADDED = [(144, 97), (97, 72), (200, 128), (128, 100)]
_MASKED = ("cpp", "triton")

CASES: dict[str, list[Case]] = {
    "rms_norm": [
        Case([(3, 7, 64), (3, 7, 64)], 2, lambda op, x, r: op(x, r)),
        Case([(3, 7, 33)], 1, lambda op, x: op(x)),
        Case([(2, 97, 40), (2, 97, 40)], 2, lambda op, x, r: op(x, r, dim=1)),
        Case([(2, 19, 33)], 1, lambda op, x: op(x, dim=1)),
    ],
    "swiglu": [
        Case([(3, 5, 64)], 1, lambda op, x: op(x)),
        Case([(3, 6, 33)], 1, lambda op, x: op(x, dim=1)),
    ],
    "mlp": [Case([_STATE, *_MLP], 3, lambda op, *inputs: op(*inputs))],
    "token_mixer": [Case([_STATE, *_MIXER], 3, lambda op, *inputs: op(*inputs))],
    "attention": [
        Case([_STATE, *_ATTENTION], 3, lambda op, *inputs: op(*inputs, heads=2)),
        Case([_STATE, *_ATTENTION], 3, lambda op, *w: op(*w[:3], heads=2, mask=w[3], causal=True), _padding, _MASKED),
    ],
    "latent_step": [
        Case([_STATE, _STATE, *_MIXER, *_MLP], 6, lambda op, *inputs: _network(op, *inputs, states=2)),
        # The published number of tokens, two blocks, inner widths that are padded.
        Case([_PAPER, _PAPER, *_PADDED * 2], 10, lambda op, *inputs: _network(op, *inputs, states=2), list, ("cuda",)),
        *(
            Case([_STATE, _STATE, *first, *_MLP], 6, partial(_masked_step, heads=heads), _padding, _MASKED)
            for heads, first in ((0, _MIXER), (2, _ATTENTION))
        ),
    ],
    "latent_recursion": [
        # What training takes, at the published number of tokens: Triton's mixer has them in several pieces.
        Case(
            [_PAPER] * 3 + [(64, 97), (97, 32), *_MLP],
            7,
            lambda op, *inputs: _network(op, *inputs, states=3, more=(2,)),
        )
    ],
    "stablemax": [
        Case([(4, 5, 11)], 1, lambda op, x: op(8 * x)),
        Case([(2, 70, 3)], 1, lambda op, x: op(8 * x, dim=1)),
    ],
    "stablemax_cross_entropy": [Case([(2, 5, 11)], 1, lambda op, x, labels: op(8 * x, labels), _labels)],
    "adam_atan2_": [Case([(3, 7, 5)] * 5, 0, _adam)],
    "sign_sgd_rows_": [Case([(9, 33), (6, 33)], 0, _sign_sgd, lambda: [torch.tensor([4, 1, 4, 4, 8, 1])])],
}


def timed_case(op: str, batch: int) -> Case:
    """The op as the published model calls it: 97 tokens, 512 channels."""
    state, mixer, mlp = (batch, 97, 512), [(1024, 97), (97, 512)], [(3072, 512), (512, 1536)]
    shapes: dict[str, Sequence[tuple[int, ...]]] = {
        "rms_norm": [state, state],
        "swiglu": [(batch, 97, 3072)],
        "mlp": [state, *mlp],
        "token_mixer": [state, *mixer],
        "attention": [state, (1536, 512), (512, 512)],
        "latent_step": [state, state, *mixer, *mlp],
        "latent_recursion": [state, state, state, *mixer, *mlp],
        "stablemax": [(batch, 97, 11)],
        "stablemax_cross_entropy": [(batch, 97, 11)],
        "adam_atan2_": [(3, 16 * batch, 512)] * 5,
        "sign_sgd_rows_": [(1000, 512), (batch, 512)],
    }
    integers: dict[str, Callable[[], list[Tensor]]] = {
        "stablemax_cross_entropy": lambda: [torch.arange(batch * 97).reshape(batch, 97) % 11],
        "sign_sgd_rows_": lambda: [torch.arange(batch) % 7],
    }
    first = CASES[op][0]
    return first._replace(shapes=shapes[op], integers=integers.get(op, list))
