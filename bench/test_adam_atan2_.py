from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

# The matrices of two blocks at D = 512 and at D = 64, and the small tensors beside them.
SIZES = {
    "paper": [(3072, 512), (512, 1536), (1024, 97), (97, 512)] * 2 + [(11, 512), (1, 512), (1,)],
    "small": [(512, 64), (64, 256), (512, 16), (16, 256)] * 2 + [(6, 64), (1, 64), (1,)],
}


@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize("size", SIZES)
def test_step(measure, size, variant):
    params, grads, m, v, ema = ([torch.randn(shape) for shape in SIZES[size]] for _ in range(5))
    v = [t.square() for t in v]
    lr, step = torch.tensor(1e-4), torch.tensor(10)

    def run(op=ops.adam_atan2_, lists=(params, grads, m, v, ema)):
        *tensors, averages = lists
        op(*tensors, lr, step, ema=averages, variant=variant)

    copies = [[t.clone() for t in tensors] for tensors in (params, grads, m, v, ema)]
    run()
    run(reference.adam_atan2_, copies)
    torch.testing.assert_close([*params, *ema], [*copies[0], *copies[4]])
    count = sum(p.numel() for p in params)
    measure("adam_atan2_", f"{size} {count} parameters {variant},torch.float32", 9 * 4 * count, run)
