from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference


@pytest.mark.parametrize(("rows", "batch"), [(100_000, 768), (1000, 64)])
def test_step(measure, rows, batch):
    weight, grads, ids = torch.randn(rows, 512), torch.randn(batch, 512), torch.randint(rows, (batch,))
    lr, want = torch.tensor(1e-4), weight.clone()
    ops.sign_sgd_rows_(weight, grads, ids, lr, 1.0)
    reference.sign_sgd_rows_(want, grads, ids, lr, 1.0)
    torch.testing.assert_close(weight, want)
    label = f"{batch} of {rows} rows of 512,torch.float32"
    run = lambda: ops.sign_sgd_rows_(weight, grads, ids, lr, 1.0)  # noqa: E731
    measure("sign_sgd_rows_", label, 3 * 4 * batch * 512, run)
