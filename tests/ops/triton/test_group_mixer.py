"""Triton kernels of the group mixer, and of recursions over group mixers, against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

from .groups import UNEVEN, grouped_weights
from .test_kernels import FLOATS, move, recursion

# Groups of unequal sizes, among them one larger than a block; numbers that no position has.
ROWS = torch.stack((torch.arange(12) // 4, torch.arange(12) % 4))
LARGE = torch.tensor([[0] * 19 + [20, 20]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("B", "groups", "D", "inner"), [(2, ROWS, 20, 12), (3, UNEVEN, 5, 7), (2, LARGE, 140, 33), (1, ROWS[:, :1], 1, 1)]
)
def test_group_mixer(triton, check, random, device, B, groups, D, inner, dtype):
    h, *weights = move(device, dtype, random(B, groups.shape[1], D), *grouped_weights(random, D, inner, groups))
    check("group_mixer", h, *weights, groups.to(device) * (groups.shape[1] > 1), scale=1.5)


def test_a_table_of_groups_is_made_once(triton, random, device, monkeypatch):
    """Later calls read nothing on the host, until the groups change."""
    from trm_fast.triton_kernels import group_mixer

    tables, table = [], group_mixer._table
    monkeypatch.setattr(group_mixer, "_table", lambda groups: tables.append(1) or table(groups))
    groups = UNEVEN.to(device, copy=True)
    leaf, *weights = move(device, torch.float32, random(2, 7, 6), *grouped_weights(random, 6, 4, UNEVEN))
    leaf.requires_grad_()
    for count in (1, 2):
        for _ in range(2):
            y = ops.group_mixer(leaf, *weights, groups)
            y.sum().backward()
        assert len(tables) == count
        want = reference.group_mixer(leaf.double(), *(w.double() for w in weights), groups)
        torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
        groups.copy_(groups.flip(1))
    with torch.inference_mode():
        constant = groups.clone()
        ops.group_mixer(leaf, *weights, constant)
        constant.zero_()
        y = ops.group_mixer(leaf, *weights, constant)
        torch.testing.assert_close(y, reference.group_mixer(leaf, *weights, constant), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [-1, 1])
def test_numbers_outside_the_positions_are_refused(triton, random, device, change):
    h, *weights = move(device, torch.float32, random(1, 7, 6), *grouped_weights(random, 6, 4, UNEVEN))
    with pytest.raises(ValueError, match="numbers from 0 to L - 1"):
        ops.group_mixer(h, *weights, UNEVEN.to(device) + change)


@pytest.mark.parametrize(
    ("dual", "n", "inject_last", "by_cublas"),
    [(True, 2, True, False), (True, 1, True, True), (False, 1, True, False), (False, 1, False, True)],
)
def test_latent_recursion_over_groups(triton, check, random, device, monkeypatch, dual, n, inject_last, by_cublas):
    """The injection is added in the kernels, or before them if cuBLAS computes the second product."""
    from trm_fast.triton_kernels import group_mixer, mlp

    if by_cublas:
        for module in (group_mixer, mlp):
            monkeypatch.setattr(module, "row_blocks", lambda *_: None)
    D, groups = 12, UNEVEN.to(device)
    options = {"n": n, "inject_last": inject_last, "groups": groups, "group_scale": 1.5}
    for module, name in ((ops, "recursion"), (reference, "recursion")):
        monkeypatch.setattr(module, name, recursion(module.latent_recursion, dual, **options), raising=False)
    weights = [w for _ in range(2) for w in grouped_weights(random, D, 10, UNEVEN)]
    check("recursion", *move(device, torch.float32, *(random(2, 7, D) for _ in range(2 + dual)), *weights))


def test_no_samples_of_groups(triton, random, device):
    h, *weights = move(device, torch.float32, torch.empty(0, 7, 12), *grouped_weights(random, 12, 5, UNEVEN))
    leaves = [t.requires_grad_() for t in (h, *weights)]
    y = ops.group_mixer(*leaves, UNEVEN.to(device))
    dh, *dweights = torch.autograd.grad(y.sum(), leaves)
    assert y.shape == dh.shape == h.shape
    assert all((d == 0).all() for d in dweights)
