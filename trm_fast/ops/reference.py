"""The ops in plain PyTorch: any dtype and device, the truth that kernels are tested against and the fallback.

Safe inside a CUDA graph: no host reads, no shapes that depend on data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _accumulate(x: Tensor) -> Tensor:
    """The dtype that statistics are kept in: float32, float64 for float64."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: Tensor, residual: Tensor | None = None, dim: int = -1, eps: float = 1e-5) -> Tensor:
    total = _accumulate(x) if residual is None else _accumulate(x) + _accumulate(residual)
    return (total * torch.rsqrt(total.square().mean(dim, keepdim=True) + eps)).to(x.dtype)


def swiglu(gate_up: Tensor, dim: int = -1) -> Tensor:
    gate, up = gate_up.chunk(2, dim=dim)
    return F.silu(gate) * up


def mlp(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return rms_norm(F.linear(swiglu(F.linear(h, gate_up)), down), h, eps=eps)


def token_mixer(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return mlp(h.transpose(1, 2), gate_up, down, eps).transpose(1, 2)


def attention(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    rotary: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    B, L, D = h.shape
    q, k, v = F.linear(h, qkv).view(B, L, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    if rotary is not None:
        q, k = _rotate(q, *rotary), _rotate(k, *rotary)
    mixed = F.scaled_dot_product_attention(q, k, v, _seen(mask, L, causal), is_causal=causal and mask is None)
    return rms_norm(F.linear(mixed.transpose(1, 2).reshape(B, L, D), out), h, eps=eps)


def _seen(mask: Tensor | None, L: int, causal: bool) -> Tensor | None:
    """Which key each query sees, (B, 1, L, L); a token always sees itself, so no row is empty."""
    if mask is None:
        return None
    place = torch.arange(L, device=mask.device)
    seen = mask[:, None, None, :].expand(-1, 1, L, -1)
    if causal:
        seen = seen & (place[:, None] >= place)
    return seen | (place[:, None] == place)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = _accumulate(x).chunk(2, dim=-1)
    return (torch.cat((a, b), -1) * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


def latent_step(
    z: Tensor,
    injection: Tensor,
    weights: Sequence[Tensor],
    *,
    heads: int = 0,
    rotary: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    return _network(z + injection, weights, heads, rotary, eps, mask, causal)


def _network(
    h: Tensor,
    weights: Sequence[Tensor],
    heads: int,
    rotary: tuple[Tensor, Tensor] | None,
    eps: float,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    for i in range(0, len(weights), 4):
        w_in, w_out, gate_up, down = weights[i : i + 4]
        if heads:
            h = attention(h, w_in, w_out, heads, rotary, eps, mask, causal)
        else:
            h = token_mixer(h if mask is None else h * mask.unsqueeze(-1), w_in, w_out, eps)
        h = mlp(h, gate_up, down, eps)
    return h


def latent_recursion(
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    n: int,
    *,
    heads: int = 0,
    rotary: tuple[Tensor, Tensor] | None = None,
    inject_last: bool = True,
    cycles: int = 1,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor | None, Tensor]:
    def net(h: Tensor) -> Tensor:
        return _network(h, weights, heads, rotary, eps, mask, causal)

    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = net(z + injection)
        if y is None:
            z = net(z + x if inject_last else z)
        else:
            y = net(y + z)
    return y, z


def _stablemax_scores(logits: Tensor) -> Tensor:
    """x + 1 for x >= 0, else 1 / (1 - x), in float64; written so that neither branch's gradient is inf * 0."""
    x = logits.double()
    return F.relu(x) + 1 / (1 - x.clamp(max=0))


def stablemax(logits: Tensor, dim: int = -1) -> Tensor:
    scores = _stablemax_scores(logits)
    return scores / scores.sum(dim, keepdim=True)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    valid = labels != ignore_index
    # Ignored positions are masked before the scores: a NaN there must not reach the gradient as 0 * NaN.
    scores = _stablemax_scores(logits.where(valid.unsqueeze(-1), 0))
    target = scores.gather(-1, labels.long().where(valid, 0).unsqueeze(-1)).squeeze(-1)
    return (scores.sum(-1).log() - target.log()).where(valid, 0)


def adam_atan2_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    lr: Tensor,
    step: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 1.0,
    ema: Sequence[Tensor] | None = None,
    ema_decay: float = 0.999,
    grad_scale: Tensor | None = None,
    variant: str = "adam_atan2",
    eps: float = 1e-8,
    copies: Sequence[Tensor] = (),
    interleave: Sequence[int] = (),
) -> None:
    beta1, beta2 = betas
    time, rate = step.double(), lr.double()
    size = rate / (1 - beta1**time)
    root = (1 - beta2**time).sqrt()
    keep = 1 - rate * weight_decay
    for i, (p, g, m, v) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, strict=True)):
        if grad_scale is not None:
            g = g * grad_scale.to(g.dtype)
        m.lerp_(g, 1 - beta1)
        v.lerp_(g.square(), 1 - beta2)
        numerator, denominator = _accumulate(m), _accumulate(v).sqrt() / root
        update = torch.atan2(numerator, denominator) if variant == "adam_atan2" else numerator / (denominator + eps)
        p.copy_(_accumulate(p) * keep - size * update)  # bfloat16 would round keep to 1
        if ema is not None:
            ema[i].lerp_(p, 1 - ema_decay)
    for p, copy, group in zip(params, copies, interleave, strict=False):
        if copy.numel() and p.numel():
            rows = p.reshape(-1, p.shape[-1])
            copy[interleaved_rows(len(rows), group, p.device), : p.shape[-1]] = rows.to(copy.dtype)


def interleaved_rows(rows: int, group: int, device: torch.device) -> Tensor:
    """Where each row goes when ``group`` rows of the first half and of the second take turns; 0 leaves the order."""
    row = torch.arange(rows, device=device)
    if group == 0:
        return row
    at = row % (rows // 2)
    return at // group * 2 * group + row // (rows // 2) * group + at % group


def sign_sgd_rows_(weight: Tensor, row_grads: Tensor, ids: Tensor, lr: Tensor, weight_decay: float) -> None:
    # Rows of equal id all add into the first of them, and all write the same new row: `unique`, without its host sync.
    count = len(ids)
    if count == 0:
        return
    order = torch.arange(count, device=ids.device)
    first = order.expand(count, count).where(ids == ids.unsqueeze(1), count).amin(1)
    sums = torch.zeros_like(row_grads).index_put((first,), row_grads, accumulate=True)[first]
    rate = lr.double()
    rows = weight[ids] * (1 - rate * weight_decay).to(weight.dtype) - rate.to(weight.dtype) * sums.sign()
    weight.index_put_((ids,), rows)
