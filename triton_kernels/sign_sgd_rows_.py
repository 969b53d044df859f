"""SignSGD for the rows of a table that a batch used.

Several examples may have the same id. The programs of the first one sum the gradients of all and update the row; those
of the others do nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys


@triton.jit
def sign_sgd_rows_kernel(
    p_weight,
    p_grads,
    p_ids,
    p_lr,
    weight_decay,
    rows,
    columns,
    batch: tl.constexpr,
    EXAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each program updates COLUMNS columns of the row of one example, unless an earlier example has the same id."""
    owner, i_column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    id = tl.load(p_ids + owner)
    earlier = tl.zeros((EXAMPLES,), tl.int32)
    for first in range(0, batch, EXAMPLES):
        i_example = first + tl.arange(0, EXAMPLES)
        earlier += (tl.load(p_ids + i_example, mask=i_example < owner, other=-1) == id).to(tl.int32)
    # Like the CUDA C++ kernel, this one ignores ids outside the table, because a kernel cannot raise.
    if (tl.max(earlier, 0) == 0) & (id >= 0) & (id < rows):
        m_column = i_column < columns
        b_sum = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, batch, EXAMPLES):
            i_example = first + tl.arange(0, EXAMPLES)
            m_same = tl.load(p_ids + i_example, mask=i_example < batch, other=-1) == id
            at = i_example.to(tl.int64)[:, None] * columns + i_column[None, :]
            b_sum += tl.sum(tl.load(p_grads + at, mask=m_same[:, None] & m_column[None, :], other=0), 0)
        lr = tl.load(p_lr).to(tl.float64)
        decay_factor, step_size = (1.0 - lr * weight_decay).to(tl.float32), lr.to(tl.float32)
        at_row = p_weight + id.to(tl.int64) * columns + i_column
        b_sign = (b_sum > 0).to(tl.float32) - (b_sum < 0).to(tl.float32)
        tl.store(at_row, tl.load(at_row, mask=m_column, other=0) * decay_factor - step_size * b_sign, mask=m_column)


def sign_sgd_rows_(weight: Tensor, row_grads: Tensor, ids: Tensor, lr: Tensor, weight_decay: float) -> None:
    """Updates the rows ``ids`` (B,) of weight (N, D) in place, from row_grads (B, D).

    weight and row_grads are float32 in any layout; ids are int64. Ids outside [0, N) are ignored. A non-contiguous
    weight is updated through a contiguous copy.
    """
    batch, columns = row_grads.shape
    if not batch or not columns:
        return
    config = configs.lookup("sign_sgd_rows", weight)
    work = weight.contiguous()
    sign_sgd_rows_kernel[(batch, triton.cdiv(columns, config["COLUMNS"]))](
        work, row_grads.contiguous(), ids.contiguous(), lr, weight_decay, weight.shape[0], columns, batch, **config
    )
    if work is not weight:
        weight.copy_(work)


fix_cache_keys(globals())
