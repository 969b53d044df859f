"""Every CUDA kernel on a GPU: results against the reference in float64, replay of a CUDA graph, no synchronization."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops._core import registry, selection, validation

KERNELS = [(op, dtype) for op, stated in registry.OPS.items() for dtype in stated.kernels.get("cuda", ())]
REASON = selection.unavailable("rms_norm", "cuda", "cuda", torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CUDA = torch.device("cuda")
kernels = pytest.mark.parametrize(("op", "dtype"), KERNELS, ids=lambda value: str(value).removeprefix("torch."))


@kernels
def test_tiny_inputs(op, dtype):
    assert validation.check(op, "cuda", dtype, CUDA) is None


@kernels
@pytest.mark.parametrize("batch", [1, 13])
def test_published_sizes(op, dtype, batch):
    case = registry.OPS[op].timed(batch)
    inputs = case.inputs(dtype, CUDA)
    with ops.use_backend("cuda", ops=[op]):
        kernel = case.run(getattr(ops, op), inputs)
        again = case.run(getattr(ops, op), inputs)
    assert validation.compare_with_reference(registry.OPS[op], case, inputs, kernel) is None
    assert all(torch.equal(kernel[name], again[name]) for name in kernel)  # every run gives the same result


@kernels
def test_no_synchronization(op, dtype):
    case = registry.OPS[op].cases[0]
    inputs = case.inputs(dtype, CUDA)
    with ops.use_backend("cuda", ops=[op]):
        grads, scalars = prepared(case, op, inputs), torch.tensor(0.01, device=CUDA)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(case, op, inputs, grads, scalars)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@kernels
def test_graph_replay_equals_eager(op, dtype):
    case = registry.OPS[op].cases[0]
    inputs = case.inputs(dtype, CUDA)
    with ops.use_backend("cuda", ops=[op]):
        grads, lr = prepared(case, op, inputs), torch.tensor(0.01, device=CUDA)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(case, op, inputs, grads, lr)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run(case, op, inputs, grads, lr)
        # Other values in the same memory, so that a constant in the graph would show.
        for tensor in inputs:
            if tensor.is_floating_point():
                tensor.mul_(0.5)
        lr.mul_(2)
        graph.replay()
        want = run(case, op, inputs, grads, lr)
    assert all(map(torch.equal, captured, want))


def prepared(case, op, inputs):
    """The incoming gradient, prepared in advance, because its creation is not part of the op."""
    if not case.differentiable:
        return None
    leaves = [t.detach() for t in inputs]
    return torch.ones_like(case.call(registry.OPS[op].reference, *leaves))


def run(case, op, inputs, grad, lr) -> list[torch.Tensor]:
    if op == "adam_atan2_":
        p, g, m, v, ema = (list(t.unbind()) for t in (inputs[0].clone(), inputs[1], *(t.clone() for t in inputs[2:])))
        targets = [torch.zeros(*t.shape, dtype=torch.bfloat16, device=t.device) for t in p]
        v = [t.abs() for t in v]
        ops.adam_atan2_(p, g, m, v, lr, lr * 100, ema=ema, grad_scale=lr, copies=targets)
        return [*p, *m, *v, *ema, *targets]
    if op == "sign_sgd_rows_":
        table = inputs[0].clone()
        ops.sign_sgd_rows_(table, *inputs[1:], lr, 0.1)
        return [table]
    leaves = [t.detach().requires_grad_(i < case.differentiable) for i, t in enumerate(inputs)]
    out = case.call(getattr(ops, op), *leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves[: case.differentiable], grad)]


def test_wrong_labels_give_nan():
    labels = torch.tensor([0, 5, -1], device=CUDA)
    with ops.use_backend("cuda", ops=["stablemax_cross_entropy"]):
        loss = ops.stablemax_cross_entropy(torch.zeros(3, 5, device=CUDA), labels)
    assert loss.isnan().tolist() == [False, True, True]
