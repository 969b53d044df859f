"""The op ``adam_atan2_``: a whole optimizer step in one pass over memory, for Adam-atan2 and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import Case, Op, kernels, register
from trm_fast.ops.packing import interleaved_rows
from trm_fast.ops.tensors import accumulate, check_tensors, is_scalar, mark_written

VARIANTS = ("adam_atan2", "adamw")


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
    copies: Sequence[Tensor | None] | None = None,
    interleave: Sequence[int] | None = None,
) -> None:
    """Updates the parameters, both moments, the EMA and the weight copies in place.

    ``p *= 1 - lr wd;  p -= lr / (1 - b1^t) * atan2(m, sqrt(v) / sqrt(1 - b2^t))`` (arXiv 2407.05872), or with
    ``variant="adamw"`` the decoupled AdamW step ``m / (sqrt(v) / sqrt(1 - b2^t) + eps)`` (arXiv 1711.05101).
    Then ``ema += (1 - ema_decay) (p - ema)`` with the new p. Numbers that change between steps are tensors, so that a
    CUDA graph reads their current values without host-device synchronization.

    Args:
        params, grads, exp_avgs, exp_avg_sqs: lists of equal length: parameters, gradients, first and second moments.
            The i-th tensors have the same shape, dtype and device; all parameters have one dtype and one device.
        lr: learning rate, 0-dim tensor on the parameters' device.
        step: number of this step, 0-dim tensor on the same device; 1 in the first call.
        betas: decay of the first and of the second moment.
        weight_decay: decoupled weight decay, multiplied by lr.
        ema: averages to update with the new parameters, or None.
        ema_decay: decay of the averages.
        grad_scale: 0-dim tensor that multiplies every gradient (for clipping), or None.
        variant: "adam_atan2" or "adamw".
        eps: used by AdamW only.
        copies: for each parameter (rows, columns), None or a matrix of at least that size, to which the new weights are
            written in a lower precision. The rest of the matrix is unchanged. All are bfloat16, or all are float16.
        interleave: for each parameter, 0 or a number g. With g, rows of the copy alternate: g rows of the first half
            (gate), then g rows of the second half (up), the layout of ``pack_weights``.

    Raises:
        TypeError: a parameter or copy is not floating-point, or lr, step or grad_scale is not a real 0-dim tensor.
        ValueError: lists differ in length, tensors in shape, dtype or device, or the variant is unknown.
        RuntimeError: a copy does not fit its parameter.

    Examples:
        >>> weight, gradient = torch.ones(2, 3), torch.ones(2, 3)
        >>> moments = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> adam_atan2_([weight], [gradient], [moments[0]], [moments[1]], torch.tensor(0.1), torch.tensor(1))
        >>> bool((weight < 1).all())
        True
    """
    if variant not in VARIANTS:
        raise ValueError(f"adam_atan2_: no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    for name, scalar in (("lr", lr), ("step", step), ("grad_scale", grad_scale)):
        if scalar is not None and not is_scalar(scalar):
            raise TypeError(f"adam_atan2_: {name} must be a 0-dim tensor of real numbers")
    lists = {"grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs, "ema": params if ema is None else ema}
    for name, tensors in lists.items():
        if len(tensors) != len(params):
            raise ValueError(f"adam_atan2_: {len(params)} params but {len(tensors)} {name}")
        for i, (p, t) in enumerate(zip(params, tensors, strict=True)):
            if (t.shape, t.dtype, t.device) != (p.shape, p.dtype, p.device):
                raise ValueError(
                    f"adam_atan2_: {name}[{i}] is {tuple(t.shape)} {t.dtype} {t.device}, "
                    f"but params[{i}] is {tuple(p.shape)} {p.dtype} {p.device}"
                )
    if not params:
        return
    check_tensors("adam_atan2_", "params", params[0])  # the others must have its dtype
    targets = [params[0].new_empty(0) if c is None else c for c in copies or ()]
    interleave = list(interleave) if interleave is not None else [0] * len(targets)
    if len(targets) not in (0, len(params)) or len(interleave) != len(targets):
        raise ValueError(
            f"adam_atan2_: {len(params)} params but {len(targets)} copies and {len(interleave)} group sizes"
        )
    for i, (p, copy, group) in enumerate(zip(params, targets, interleave, strict=False)):
        if copy.numel():
            _check_copy(i, p, copy, group)
    if any(p.dtype != params[0].dtype or p.device != params[0].device for p in params):
        raise ValueError("adam_atan2_: params must share one dtype and one device; call it once for each")
    for name, scalar in (("lr", lr), ("step", step), ("grad_scale", grad_scale)):
        if scalar is not None and scalar.device != params[0].device:
            raise ValueError(f"adam_atan2_: {name} is on {scalar.device}, the params on {params[0].device}")
    with torch.no_grad():
        chosen = dispatch.select("adam_atan2_", params[0])
        if chosen == "reference":
            adam_atan2_reference(
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                lr,
                step,
                betas=betas,
                weight_decay=weight_decay,
                ema=ema,
                ema_decay=ema_decay,
                grad_scale=grad_scale,
                variant=variant,
                eps=eps,
                copies=targets,
                interleave=interleave,
            )
        else:
            kernels(chosen).adam_atan2_.default(
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                [] if ema is None else ema,
                *([[], []] if chosen == "cpp" else [targets, interleave]),
                lr,
                step,
                grad_scale,
                *betas,
                weight_decay,
                ema_decay,
                eps,
                variant == "adamw",
            )
            mark_written([*params, *exp_avgs, *exp_avg_sqs, *(ema or ()), *targets])
            if chosen == "cpp":  # only tests and export use copies on a CPU
                _write_copies(params, targets, interleave)


def adam_atan2_reference(
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
        numerator, denominator = accumulate(m), accumulate(v).sqrt() / root
        update = torch.atan2(numerator, denominator) if variant == "adam_atan2" else numerator / (denominator + eps)
        p.copy_(accumulate(p) * keep - size * update)  # in float32, because bfloat16 would round keep to 1
        if ema is not None:
            ema[i].lerp_(p, 1 - ema_decay)
    _write_copies(params, copies, interleave)


def _write_copies(params: Sequence[Tensor], copies: Sequence[Tensor], interleave: Sequence[int]) -> None:
    for p, copy, group in zip(params, copies, interleave, strict=False):
        if copy.numel() and p.numel():
            rows = p.reshape(-1, p.shape[-1])
            copy[interleaved_rows(len(rows), group, p.device), : p.shape[-1]] = rows.to(copy.dtype)


def _check_copy(i: int, p: Tensor, copy: Tensor, group: int) -> None:
    check_tensors("adam_atan2_", "copies", copy)
    if copy.dim() != 2 or copy.stride(1) != 1:
        raise RuntimeError(f"adam_atan2_: copy {i} must be a matrix with contiguous rows")
    columns = p.shape[-1] if p.dim() else 0
    rows = p.numel() // max(1, columns)
    if not columns or group < 0 or (group and rows % 2):
        raise RuntimeError(f"adam_atan2_: parameter {i}, {tuple(p.shape)}, has no copy with groups of {group} rows")
    needed = -(-rows // 2 // group) * 2 * group if group else rows
    if copy.shape[0] < needed or copy.shape[1] < columns:
        raise RuntimeError(
            f"adam_atan2_: copy {i} is too small: {tuple(copy.shape)}, not ({needed}, {columns}) or more"
        )


def _updated(op: Callable[..., None], p: Tensor, g: Tensor, m: Tensor, v: Tensor, ema: Tensor) -> Tensor:
    lists = [list(t.unbind()) for t in (p.clone(), g, m.clone(), v.square(), ema.clone())]
    lr, step, scale = (torch.full((), x, device=p.device) for x in (1e-2, 3.0, 0.5))  # filled on the device
    with torch.no_grad():
        op(*lists[:4], lr, step, ema=lists[4], ema_decay=0.9, weight_decay=0.1, grad_scale=scale)
    return torch.stack([t for i in (0, 2, 3, 4) for t in lists[i]])


register(
    Op(
        adam_atan2_,
        adam_atan2_reference,
        kernels={"cpp": (torch.float32, torch.float64), "triton": (torch.float32,), "cuda": (torch.float32,)},
        schemas={
            "adam_atan2_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
            "Tensor(d!)[] ema, Tensor(e!)[] copies, int[] interleave, Tensor lr, Tensor step, Tensor? grad_scale, "
            "float beta1, float beta2, float weight_decay, float ema_decay, float eps, bool adamw) -> ()": (
                lambda *_: None
            )
        },
        cases=[Case([(3, 7, 5)] * 5, 0, _updated)],
        timed=lambda batch: Case([(3, 16 * batch, 512)] * 5, 0, _updated),
    )
)
