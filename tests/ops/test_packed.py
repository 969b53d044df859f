"""The Python side of the fused CUDA layers; the kernels are tested in test_cuda_kernels.py and on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import backend, packed, reference

SIZES = {"L": 19, "D": 128, "mixer": 20, "mlp": 60}


def network(random, blocks=2, L=19, D=128, mixer=20, mlp=60, dtype=torch.bfloat16) -> list[Tensor]:
    shapes = [(2 * mixer, L), (L, mixer), (2 * mlp, D), (D, mlp)] * blocks
    return [(random(*shape) / shape[1] ** 0.5).to(dtype) for shape in shapes]


def unpacked(matrices: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    plain = []
    for matrix, weight, layout in zip(matrices, weights, packed.layouts(weights, 19), strict=True):
        rows = reference.interleaved_rows(len(weight), layout.interleave, weight.device)
        plain.append(matrix[rows, : weight.shape[1]])
        rest = torch.ones_like(matrix, dtype=torch.bool)
        rest[rows, : weight.shape[1]] = False
        assert not matrix[rest].any()
    return plain


def test_layouts(random):
    weights = network(random)
    matrices = ops.pack_weights(weights, 19)
    assert [tuple(m.shape) for m in matrices[:4]] == [(64, 32), (32, 32), (128, 128), (128, 64)]
    assert all(map(torch.equal, unpacked(matrices, weights), weights))
    gate, up = weights[0].chunk(2)
    assert torch.equal(matrices[0][:16, :19], torch.cat([gate[:8], up[:8]]))


def test_the_optimizer_keeps_packed_weights_up_to_date(native, random):
    params = network(random, dtype=torch.float32)
    lists = [[torch.rand_like(p) for p in params] for _ in range(3)]
    kept = ops.pack_weights(params, 19)
    interleave = [layout.interleave for layout in packed.layouts(params, 19)]
    ops.adam_atan2_(params, *lists, torch.tensor(0.1), torch.tensor(1), copies=kept, interleave=interleave)
    assert all(map(torch.equal, kept, ops.pack_weights(params, 19)))


@pytest.fixture
def stand_in(native, random, monkeypatch):
    """The kernels' op on the CPU: it unpacks the weights and takes the reference."""
    weights = network(random)
    library = torch.library.Library("trm_fast", "IMPL")

    def run(z, injection, matrices, eps):
        h = z if injection is None else z + injection
        return reference.latent_step(h, torch.zeros_like(h), unpacked(matrices, weights), eps=eps)

    library.impl("latent_step_packed", run, "CPU")
    monkeypatch.setattr(backend, "select", lambda *_: "cuda")
    yield weights
    library._destroy()


@pytest.mark.parametrize("give_packed", [True, False])
def test_latent_step_and_its_gradients(stand_in, random, give_packed):
    z, injection, dz = (random(2, 19, 128, dtype=torch.bfloat16) for _ in range(3))
    given = ops.pack_weights(stand_in, 19) if give_packed else None
    results = []
    for op, options in ((ops.latent_step, {"packed": given}), (reference.latent_step, {})):
        leaves = [t.clone().requires_grad_() for t in (z, injection, *stand_in)]
        out = op(leaves[0], leaves[1], leaves[2:], **options)
        results.append([out, *torch.autograd.grad(out, leaves, dz)])
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("inject_last", [True, False])
def test_latent_recursion(stand_in, random, dual, inject_last):
    y, z, x = (random(2, 19, 128, dtype=torch.bfloat16) for _ in range(3))
    states, options = (y if dual else None, z, x), {"inject_last": inject_last, "cycles": 2}
    got = ops.latent_recursion(*states, stand_in, 2, **options)
    want = reference.latent_recursion(*states, stand_in, 2, **options)
    assert (got[0] is None) == (not dual)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True) if w is not None)


@pytest.mark.parametrize(
    ("shape", "heads", "reason"),
    [((2, 19, 128), 2, "not for attention"), ((2, 129, 128), 0, "not 129"), ((2, 19, 96), 0, "not 96")],
)
def test_what_the_kernels_cannot_take(random, monkeypatch, shape, heads, reason):
    """Asked for by name they say so; on their own they leave it to the reference."""
    z = random(*shape, dtype=torch.bfloat16)
    if heads:
        weights = [random(384, 128), random(128, 128), *network(random, 1)[2:]]
        weights = [w.bfloat16() for w in weights]
    else:
        weights = network(random, 1, L=shape[1], D=shape[2])
    monkeypatch.setattr(backend, "select", lambda *_: "cuda")
    want = reference.latent_step(z, z, weights, heads=heads)
    assert torch.equal(ops.latent_step(z, z, weights, heads=heads), want)
    monkeypatch.setitem(backend._requested, "latent_step", "cuda")
    with pytest.raises(ops.BackendUnavailable, match=reason):
        ops.latent_step(z, z, weights, heads=heads)
