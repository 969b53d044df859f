"""The calls of ops that ``op_table`` and bench/tune.py time: the sizes of the published model, with bytes and FLOP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from plan import Sizes
from torch import Tensor

from trm_fast import ops
from trm_fast.ops._core.registry import OPS, Case

RELATIVE_TOLERANCE = 0.02  # of the norm of a result; sums in another order are rounded differently to bfloat16


class OpCase(NamedTuple):
    """A call of an op, and the least memory traffic and arithmetic that it needs.

    ``bytes`` counts each tensor once, as read or as written. ``flop`` is the forward's; the backward needs twice as
    much, and recomputing what the forward did not keep is not counted.
    """

    op: str
    label: str
    case: Case
    bytes: int
    backward_bytes: int = 0
    flop: int = 0


def cases(batch: int, sizes: Sizes, dtype: torch.dtype) -> list[OpCase]:
    """The cases for a batch size; ``dtype`` is the activations', from which the bytes follow."""
    L, D, V, I, T = sizes.tokens, sizes.channels, 11, sizes.inner, sizes.token_inner
    size, M = torch.finfo(dtype).bits // 8, batch * L
    x, logits, state = (batch, L, D), (batch, L, V), M * D * size
    over_tokens, over_channels = [(2 * T, L), (L, T)], [(2 * I, D), (D, I)]
    token_flop, channel_flop = 6 * M * D * T, 6 * M * D * I
    labels = torch.arange(M, dtype=torch.int32).view(batch, L) % V
    norm, loss = Case([x, x], 2, plain), Case([logits], 1, plain, lambda _: [labels])
    norm_over_tokens = Case([x, x], 2, lambda op, h, r: op(h, r, dim=1))
    attention = Case([x, (3 * D, D), (D, D)], 3, lambda op, *inputs: op(*inputs, sizes.heads))
    groups = square_groups(L)
    over_groups = [(2 * I, (1 + len(groups)) * D), (D, I)]
    group_flop = channel_flop + 4 * batch * int(groups.amax(1).add(1).sum()) * D * I
    group_mixer = Case([x, *over_groups], 3, plain, lambda _: [groups])
    step = Case([x, x, *over_tokens, *over_channels], 6, lambda op, h, r, *weights: op(h, r, weights))
    return [  # the ops that take most of a training step come first
        OpCase("mlp", "", Case([x, *over_channels], 3, plain), 2 * state, 3 * state, channel_flop),
        OpCase("token_mixer", "", Case([x, *over_tokens], 3, plain), 2 * state, 3 * state, token_flop),
        OpCase("group_mixer", "", group_mixer, 2 * state, 3 * state, group_flop),
        OpCase("attention", "", attention, 2 * state, 3 * state, 8 * M * D * D + 4 * M * L * D),
        OpCase("latent_step", "mixer", step, 3 * state, 4 * state, token_flop + channel_flop),
        OpCase("rms_norm", "channels", norm, 3 * state, 3 * state),
        OpCase("rms_norm", "tokens", norm_over_tokens, 3 * state, 3 * state),
        OpCase("swiglu", "channels", Case([(batch, L, 2 * I)], 1, plain), 3 * M * I * size, 5 * M * I * size),
        OpCase("stablemax_cross_entropy", "", loss, M * (V * size + 4 + 8), M * (2 * V * size + 4 + 8)),
        OpCase("stablemax", "", Case([logits], 1, plain), M * V * (size + 8), M * V * (2 * size + 8)),
        _optimizer([*over_channels, *over_tokens] * 2 + [(V, D)] * 2),
        _rows(batch, sizes),
    ]


def square_groups(tokens: int) -> Tensor:
    """Rows, columns and boxes of a square, as groups of its cells; tokens that it lacks are more of its rows.

    Examples:
        >>> square_groups(5).tolist()
        [[0, 0, 1, 1, 2], [0, 1, 0, 1, 0], [0, 1, 2, 3, 4]]
    """
    side = math.isqrt(tokens)
    box = math.isqrt(side)
    row, column = torch.arange(tokens) // side, torch.arange(tokens) % side
    return torch.stack((row, column, row // box * (side // box) + column // box))


def plain(op: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return op(*inputs)


def _optimizer(weights: list[tuple[int, int]]) -> OpCase:
    """One step on all weights of the published model: it reads weights, gradients, two moments and the average, and
    writes all but the gradients."""
    count = len(weights)

    def call(op: Callable[..., None], *inputs: Tensor) -> Tensor:
        params, grads, m, ema, v = (inputs[i * count : (i + 1) * count] for i in range(5))
        op(params, grads, m, v, *inputs[5 * count :], ema=ema)
        return params[0]

    def further(inputs: list[Tensor]) -> list[Tensor]:
        return [*(t.square() for t in inputs[:count]), torch.tensor(1e-4), torch.tensor(1.0)]

    moved = 9 * 4 * sum(rows * columns for rows, columns in weights)
    return OpCase("adam_atan2_", "", Case(weights * 4, 0, call, further), moved)


def _rows(batch: int, sizes: Sizes) -> OpCase:
    """An update of the rows of the puzzle embedding that a batch used."""
    count, width = sizes.embeddings, sizes.channels

    def call(op: Callable[..., None], table: Tensor, grads: Tensor, ids: Tensor, lr: Tensor) -> Tensor:
        op(table, grads, ids, lr, 0.1)
        return table

    ids = torch.randint(0, count, (batch,))
    case = Case([(count, width), (batch, width)], 0, call, lambda _: [ids, torch.tensor(1e-4)])
    return OpCase("sign_sgd_rows_", "", case, 3 * 4 * batch * width)


def run(row: OpCase, leaves: list[Tensor]) -> list[Tensor]:
    """Runs an op and returns its result and gradients. For an in-place op, the list is empty."""
    with ops.use_backend("triton", [row.op]):
        out, count = row.case.call(OPS[row.op].function, *leaves), row.case.differentiable
        return [out.detach(), *torch.autograd.grad(out, leaves[:count], torch.ones_like(out))] if count else []


def outcome(row: OpCase, inputs: list[Tensor]) -> list[Tensor]:
    """Runs an op on copies and returns its result and gradients. For an in-place op, returns how far it moved each
    input: one update changes a weight by much less than ``RELATIVE_TOLERANCE``."""
    leaves = row.case.leaves(inputs)
    return run(row, leaves) or [leaf - start for leaf, start in zip(leaves, inputs, strict=True)]


def same(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all results agree in the L2 norm."""
    pairs = [(r.float(), e.float()) for r, e in zip(results, expected, strict=True)]
    return all(bool((r - e).norm() <= RELATIVE_TOLERANCE * e.norm()) for r, e in pairs)
