"""The op ``sign_sgd_rows_``: SignSGD on the rows of an embedding table that a batch used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import Case, Op, kernels, register
from trm_fast.ops.tensors import check_tensors, is_scalar, mark_written


def sign_sgd_rows_(weight: Tensor, row_grads: Tensor, ids: Tensor, lr: Tensor, weight_decay: float) -> None:
    """Updates the rows whose numbers are in ``ids``, in place: ``w = w (1 - lr wd) - lr sign(sum of w's gradients)``.

    This is the update of TRM's puzzle embedding (published code), without ``unique`` and its host-device
    synchronization. Gradients of equal ids are summed in batch order, so that every run gives the same result.

    Args:
        weight: the table, (N, D).
        row_grads: (B, D), for each example the gradient of its row. Same dtype and device as ``weight``.
        ids: (B,), each example's row number in [0, N), any integer dtype.
        lr: learning rate, 0-dim tensor on the same device.
        weight_decay: decoupled weight decay, multiplied by lr.

    Raises:
        TypeError: the table is not floating-point, ids are not integers, or lr is not a real 0-dim tensor.
        ValueError: shapes, dtypes or devices do not match.
        RuntimeError, IndexError: an id is outside [0, N), on a CPU. GPU kernels ignore such an id.

    Examples:
        >>> table = torch.zeros(3, 2)
        >>> sign_sgd_rows_(table, torch.ones(2, 2), torch.tensor([1, 1]), torch.tensor(0.5), weight_decay=0.0)
        >>> table.tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0]]
    """
    check_tensors("sign_sgd_rows_", "weight", weight)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"sign_sgd_rows_: ids must be integers, not {ids.dtype}")
    if not is_scalar(lr):
        raise TypeError("sign_sgd_rows_: lr must be a 0-dim tensor of real numbers")
    if weight.dim() != 2 or ids.dim() != 1 or row_grads.shape != (len(ids), weight.shape[1]):
        raise ValueError(
            "sign_sgd_rows_: expected weight (N, D), row_grads (B, D) and ids (B,), but got "
            f"{tuple(weight.shape)}, {tuple(row_grads.shape)} and {tuple(ids.shape)}"
        )
    if row_grads.dtype != weight.dtype or {row_grads.device, ids.device, lr.device} != {weight.device}:
        raise ValueError(
            f"sign_sgd_rows_: weight is {weight.dtype} on {weight.device}, row_grads {row_grads.dtype} on "
            f"{row_grads.device}, ids on {ids.device}, lr on {lr.device}: dtype and device must agree"
        )
    with torch.no_grad():
        chosen = dispatch.select("sign_sgd_rows_", weight)
        if chosen == "reference":
            sign_sgd_rows_reference(weight, row_grads, ids.long(), lr, weight_decay)
        else:
            kernels(chosen).sign_sgd_rows_.default(weight, row_grads, ids.long(), lr, weight_decay)
            mark_written([weight])


def sign_sgd_rows_reference(weight: Tensor, row_grads: Tensor, ids: Tensor, lr: Tensor, weight_decay: float) -> None:
    # Gradients of equal ids are summed at their first position, and all of them write the same new row. `unique` would
    # synchronize with the host.
    count = len(ids)
    if count == 0:
        return
    order = torch.arange(count, device=ids.device)
    first = order.expand(count, count).where(ids == ids.unsqueeze(1), count).amin(1)
    sums = torch.zeros_like(row_grads).index_put((first,), row_grads, accumulate=True)[first]
    rate = lr.double()
    rows = weight[ids] * (1 - rate * weight_decay).to(weight.dtype) - rate.to(weight.dtype) * sums.sign()
    weight.index_put_((ids,), rows)


def _updated(op: Callable[..., None], weight: Tensor, grads: Tensor, ids: Tensor) -> Tensor:
    table = weight.clone()
    with torch.no_grad():
        op(table, grads, ids, torch.full((), 0.01, device=weight.device), 0.1)
    return table


register(
    Op(
        sign_sgd_rows_,
        sign_sgd_rows_reference,
        kernels={"cpp": (torch.float32, torch.float64), "triton": (torch.float32,), "cuda": (torch.float32,)},
        schemas={
            "sign_sgd_rows_(Tensor(a!) weight, Tensor row_grads, Tensor ids, Tensor lr, float weight_decay) -> ()": (
                lambda *_: None
            )
        },
        cases=[Case([(9, 33), (6, 33)], 0, _updated, lambda _: [torch.tensor([4, 1, 4, 4, 8, 1])])],
        timed=lambda batch: Case([(1000, 512), (batch, 512)], 0, _updated, lambda _: [torch.arange(batch) % 7]),
    )
)
