"""The ops at the sizes of the published model: inputs, calls, and the bytes and FLOP that each must take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from plan import Sizes
from torch import Tensor

from trm_fast import ops


@dataclass
class Case:
    """``call(module)``: the op of ``trm_fast.ops`` or of its reference; ``leaves``: what gradients are wanted of.

    Each tensor is read or written once, no more; the backward, which takes twice the FLOP, may compute again what the
    forward could have kept.
    """

    op: str
    label: str
    call: Callable[[Any], Tensor | None]
    leaves: list[Tensor]
    bytes: int
    backward_bytes: int
    flop: int = 0
    backward: bool = True


def alone(case: Case) -> None:
    with torch.no_grad():
        case.call(ops)


def with_gradients(case: Case, direction: Tensor) -> None:
    torch.autograd.grad(output(case), case.leaves, direction)


def output(case: Case) -> Tensor:
    out = case.call(ops)
    assert out is not None
    return out


def cases(batch: int, sizes: Sizes, dtype: torch.dtype, device: str) -> list[Case]:
    L, D, V, heads = sizes.tokens, sizes.channels, 11, sizes.heads
    I, T = sizes.inner, sizes.token_inner
    size = torch.finfo(dtype).bits // 8

    def rand(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
        return (scale * torch.randn(*shape, device=device)).to(kind).requires_grad_()

    h, r = rand(batch, L, D), rand(batch, L, D)
    gated = rand(batch, L, 2 * I)
    channels, down = rand(2 * I, D, scale=D**-0.5), rand(D, I, scale=I**-0.5)
    tokens, back = rand(2 * T, L, scale=L**-0.5), rand(L, T, scale=T**-0.5)
    qkv, out = rand(3 * D, D, scale=D**-0.5), rand(D, D, scale=D**-0.5)
    logits = rand(batch, L, V)
    labels = torch.randint(1, V, (batch, L), device=device, dtype=torch.int32)
    state, M = batch * L * D * size, batch * L
    mixer = [tokens, back, channels, down]
    per_layer = 6 * M * D * T + 6 * M * D * I
    found = [  # what a training step is mostly made of comes first
        Case("mlp", "", lambda m: m.mlp(h, channels, down), [h, channels, down], 2 * state, 3 * state, 6 * M * D * I),
        Case(
            "token_mixer", "", lambda m: m.token_mixer(h, tokens, back), [h, tokens, back], 2 * state, 3 * state,
            6 * M * D * T,
        ),
        Case(
            "attention", "", lambda m: m.attention(h, qkv, out, heads), [h, qkv, out], 2 * state, 3 * state,
            8 * M * D * D + 4 * M * L * D,
        ),
        Case(
            "latent_step", "mixer", lambda m: m.latent_step(h, r, mixer), [h, r, *mixer], 3 * state, 4 * state,
            per_layer,
        ),
        Case("rms_norm", "channels", lambda m: m.rms_norm(h, r), [h, r], 3 * state, 3 * state),
        Case("rms_norm", "tokens", lambda m: m.rms_norm(h, r, dim=1), [h, r], 3 * state, 3 * state),
        Case("swiglu", "channels", lambda m: m.swiglu(gated), [gated], 3 * M * I * size, 5 * M * I * size),
        Case(
            "stablemax_cross_entropy", "", lambda m: m.stablemax_cross_entropy(logits, labels), [logits],
            M * (V * size + 4 + 8), M * (2 * V * size + 4 + 8),
        ),
        Case(
            "stablemax", "", lambda m: m.stablemax(logits), [logits], M * V * (size + 8), M * V * (2 * size + 8),
        ),
    ]  # fmt: skip
    return [*found, _optimizer(sizes, device), _rows(batch, sizes, device)]


def _optimizer(sizes: Sizes, device: str) -> Case:
    """All weights of the published model: weight, gradient, two moments and the average, read, and four written."""
    L, D, I, T = sizes.tokens, sizes.channels, sizes.inner, sizes.token_inner
    shapes = [(2 * I, D), (D, I), (2 * T, L), (L, T)] * 2 + [(11, D)] * 2
    lists = [[torch.randn(shape, device=device) for shape in shapes] for _ in range(5)]
    lr, step = torch.tensor(1e-4, device=device), torch.tensor(1.0, device=device)
    params, grads, m, v, ema = lists
    v = [t.abs() for t in v]

    def call(module: Any) -> None:
        module.adam_atan2_(params, grads, m, v, lr, step, ema=ema)

    return Case("adam_atan2_", "", call, [], 9 * 4 * sum(p.numel() for p in params), 0, backward=False)


def _rows(batch: int, sizes: Sizes, device: str) -> Case:
    count, width = sizes.embeddings, sizes.channels
    table, grads = torch.randn(count, width, device=device), torch.randn(batch, width, device=device)
    ids, lr = torch.randint(0, count, (batch,), device=device), torch.tensor(1e-4, device=device)
    return Case(
        "sign_sgd_rows_", "", lambda m: m.sign_sgd_rows_(table, grads, ids, lr, 0.1), [], 3 * 4 * batch * width, 0,
        backward=False,
    )  # fmt: skip
