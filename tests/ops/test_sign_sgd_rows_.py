"""The op sign_sgd_rows_ against its reference and the published update."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

LR = torch.tensor(0.1)


def published(weight, row_grads, ids, lr, weight_decay):
    """The update of the published code, with ``unique``."""
    rows, inverse = ids.unique(return_inverse=True)
    sums = torch.zeros(len(rows), weight.shape[1], dtype=weight.dtype).index_add_(0, inverse, row_grads)
    out = weight.clone()
    out[rows] = out[rows] * (1 - lr * weight_decay) - lr * sums.sign()
    return out


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "batch"), [(7, 130, 12), (1, 3, 5), (50, 64, 1), (4, 5, 0), (4, 0, 3)])
def test_agrees_with_the_published_update(native, random, backend, rows, columns, batch, dtype):
    weight, grads = random(rows, columns, dtype=dtype), random(batch, columns, dtype=dtype)
    ids = torch.arange(batch).mul(5) % rows
    want = published(weight, grads, ids, LR.to(dtype), 0.5)
    with ops.use_backend(backend):
        ops.sign_sgd_rows_(weight, grads, ids, LR.to(dtype), 0.5)
    torch.testing.assert_close(weight, want)


def test_every_instruction_set(isa, random):
    weight, grads, ids = random(6, 130), random(20, 130), torch.arange(20) % 4
    want = weight.clone()
    reference.sign_sgd_rows_(want, grads, ids, LR, 0.5)
    ops.sign_sgd_rows_(weight, grads, ids, LR, 0.5)
    torch.testing.assert_close(weight, want)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_opposite_gradients_cancel_and_nan_stays_in_its_row(native, backend):
    weight = torch.ones(3, 2)
    grads = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [torch.nan, 1.0]])
    with ops.use_backend(backend):
        ops.sign_sgd_rows_(weight, grads, torch.tensor([1, 1, 2]), LR, 0.0)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.0], [1.0, 0.9], [1.0, 0.9]]))


def test_any_layout(cpp, random):
    weight, grads, ids = random(8, 5).t(), random(8, 1).t().expand(6, 8), torch.tensor([0, 9, 3, 9, 3, 9])[::2] % 5
    want = published(weight, grads[:3], ids, LR, 0.1)
    ops.sign_sgd_rows_(weight, grads[:3], ids.int(), LR, 0.1)
    torch.testing.assert_close(weight, want)


def test_any_number_of_threads_gives_the_same_bits(cpp, random):
    weight, grads, ids = random(300, 512), random(768, 512), torch.arange(768).mul(7) % 300
    results, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(weight.clone())
        ops.sign_sgd_rows_(results[-1], grads, ids, LR, 0.1)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_opcheck(cpp, random):
    args = (random(5, 3), random(4, 3), torch.tensor([0, 2, 2, 4]), LR, 0.1)
    torch.library.opcheck(torch.ops.trm_fast.sign_sgd_rows_.default, args)


def test_compiles_to_one_graph(cpp, random):
    weight, grads, ids = random(5, 3), random(4, 3), torch.tensor([0, 2, 2, 4])
    want = weight.clone()
    ops.sign_sgd_rows_(want, grads, ids, LR, 0.1)
    torch.compiler.reset()
    torch.compile(ops.sign_sgd_rows_, fullgraph=True, backend="aot_eager")(weight, grads, ids, LR, 0.1)
    assert torch.equal(weight, want)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("wrong", [5, -6])
def test_id_out_of_range(native, backend, wrong):
    with ops.use_backend(backend), pytest.raises((RuntimeError, IndexError), match=f"{wrong}"):
        ops.sign_sgd_rows_(torch.zeros(5, 2), torch.zeros(2, 2), torch.tensor([0, wrong]), LR, 0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": torch.zeros(2)}, TypeError, "ids must be integers"),
        ({"lr": 0.1}, TypeError, "lr must be a 0-dim tensor"),
        ({"row_grads": torch.zeros(2, 4)}, ValueError, r"expected weight \(N, D\)"),
        ({"row_grads": torch.zeros(2, 3).double()}, ValueError, "dtype and device must agree"),
        ({"ids": torch.zeros(2, dtype=torch.long, device="meta")}, ValueError, "ids on meta"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"weight": torch.zeros(5, 3), "row_grads": torch.zeros(2, 3), "ids": torch.tensor([0, 1]), "lr": LR}
    with pytest.raises(error, match=message):
        ops.sign_sgd_rows_(**(arguments | {"weight_decay": 0.1} | change))
