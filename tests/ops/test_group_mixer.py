"""The op group_mixer, and the recursion over group mixers, against their references in float64."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.nn.groups import Grid, partitions
from trm_fast.ops import reference

SUDOKU = partitions(["rows", "columns", "boxes"], Grid((9, 9), (3, 3)))
SYMBOLS = partitions(["rows", "columns", "boxes"], Grid((4, 4), (2, 2)), symbols=4)
# Groups of unequal sizes, a number that no position has, and fewer positions than a vector.
UNEVEN = torch.tensor([[0, 0, 0, 0, 3, 1, 1], [6, 5, 4, 3, 2, 1, 0]])

# B, groups, D, inner: several tiles, widths that fill no vector, hidden channels in several passes.
CASES = [
    (2, SUDOKU, 40, 24), (3, SYMBOLS, 21, 13), (2, UNEVEN, 5, 7), (1, UNEVEN[:1], 16, 530), (3, SUDOKU, 32, 150),
    (1, partitions(["rows", "all"], Grid((20, 25)), prefix=2), 12, 8),
]  # fmt: skip


def inputs(random, B, groups, D, inner):
    read = (1 + len(groups)) * D
    h = random(B, groups.shape[1], D)
    return h, random(2 * inner, read) * read**-0.5, random(D, inner) * inner**-0.5, groups


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_reference(isa, check, random, case):
    check("group_mixer", *inputs(random, *case), scale=1.5)


def test_reference_is_the_mlp_of_the_means(random):
    """The oracle itself, spelled out: means by a loop over the groups."""
    h, gate_up, down, groups = inputs(random, *CASES[2])
    read = [h]
    for group in groups:
        mean = torch.zeros_like(h)
        for number in group.unique():
            mean[:, group == number] = h[:, group == number].mean(1, keepdim=True)
        read.append(2 * mean)
    gate, up = (torch.cat(read, -1) @ gate_up.T).chunk(2, -1)
    y = h + (torch.nn.functional.silu(gate) * up) @ down.T
    want = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(reference.group_mixer(h, gate_up, down, groups, 2.0), want)


def test_symmetries_of_the_groups_are_symmetries_of_the_op(cpp, random):
    h, gate_up, down, _ = inputs(random, 2, SUDOKU, 24, 16)
    # Rows 0 and 1, then the first two bands, then rows and columns change places: all map groups to groups. The
    # transposition exchanges the partitions of rows and columns, so it needs their weights to be equal.
    gate_up[:, 48:72] = gate_up[:, 24:48]
    cells = torch.arange(81).view(9, 9)
    order = cells[[1, 0, 2, 3, 4, 5, 6, 7, 8]][[3, 4, 5, 0, 1, 2, 6, 7, 8]].T.flatten()
    want = ops.group_mixer(h, gate_up, down, SUDOKU)[:, order]
    torch.testing.assert_close(ops.group_mixer(h[:, order], gate_up, down, SUDOKU), want)


def test_any_layout(cpp, check, random):
    h, gate_up, down, groups = inputs(random, 2, UNEVEN, 20, 12)
    check("group_mixer", h.transpose(1, 2).contiguous().transpose(1, 2), gate_up.T.contiguous().T, down, groups)
    check("group_mixer", h[:1].expand(3, 7, 20), gate_up, down, groups.T.contiguous().T)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_the_forward(cpp, random, threads):
    tensors = inputs(random, 1, SUDOKU, 24, 16)
    want, previous = ops.group_mixer(*tensors), torch.get_num_threads()
    torch.set_num_threads(threads)
    got = ops.group_mixer(*tensors)
    torch.set_num_threads(previous)
    torch.testing.assert_close(got, want)


def test_gradcheck(random):
    *tensors, groups = inputs(random, 2, UNEVEN, 3, 2)
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(
            lambda *t: ops.group_mixer(*t, groups, 1.5), [t.double().requires_grad_() for t in tensors]
        )


def test_opcheck(cpp, random):
    h, *layer = inputs(random, 2, UNEVEN, 20, 12)
    for keep in (False, True):
        torch.library.opcheck(torch.ops.trm_fast.group_mixer_fwd.default, (h, keep, *layer, 1.5, 1e-5))
    saved = torch.ops.trm_fast.group_mixer_fwd(h, True, *layer, 1.5, 1e-5)[1]
    torch.library.opcheck(torch.ops.trm_fast.group_mixer_bwd.default, (h, h, saved, *layer, 1.5, 1e-5))


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("group_mixer", *inputs(random, 2, UNEVEN, 8, 6), scale=1.5)


def test_no_samples(cpp, random):
    h, gate_up, down, groups = inputs(random, 0, UNEVEN, 20, 12)
    weights = [gate_up.requires_grad_(), down.requires_grad_()]
    y = ops.group_mixer(h, *weights, groups)
    assert y.shape == h.shape
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), weights))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda h, a, b, g: (h, a[:, :-1], b, g), ValueError, r"must be \(2 I, 15\) and \(5, I\) for 2 partitions"),
        (lambda h, a, b, g: (h, a, b, g[:, :-1]), ValueError, r"groups must be int64 \(G, 7\) on cpu"),
        (lambda h, a, b, g: (h, a, b, g.int()), ValueError, "but are torch.int32"),
        (lambda h, a, b, g: (h, a, b, g[:0]), ValueError, r"but are torch.int64 \(0, 7\)"),
        (lambda h, a, b, g: (h, a, b, g - 1), RuntimeError, "numbers from 0 to L - 1"),
        (lambda h, a, b, g: (h, a, b, g + 1), RuntimeError, "numbers from 0 to L - 1"),
    ],
)
def test_wrong_arguments(cpp, random, change, error, message):
    with pytest.raises(error, match=message):
        ops.group_mixer(*change(*inputs(random, *CASES[2])))


def recursion(op, *tensors, dual, groups, **options):
    y, z, x, *weights = tensors if dual else (None, *tensors)
    y, z = op(y, z, x, weights, groups=groups, group_scale=1.5, **options)
    return z if y is None else torch.cat((y, z))


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3]])  # the smallest widths amplify rounding
def test_recursion_agrees_with_reference(isa, check, random, monkeypatch, case, dual):
    for module in (ops, reference):
        op = module.latent_recursion
        monkeypatch.setattr(
            module, "flat", lambda *t, op=op, **options: recursion(op, *t, dual=dual, **options), raising=False
        )
    (h, *first, groups), (_, *second, _) = (inputs(random, *case) for _ in range(2))
    states = [h, *(random(*h.shape) for _ in range(2 if dual else 1))]
    check("flat", *states, *first, *second, groups=groups, n=2)


def test_cycles_are_applications_in_sequence(cpp, random):
    z, *weights, groups = inputs(random, 3, SYMBOLS, 12, 8)
    y, x = random(*z.shape), random(*z.shape)

    def net(h):
        return ops.group_mixer(h, *weights, groups, 1.5)

    want_y, want_z = y, z
    for _ in range(2):
        for _ in range(2):
            want_z = net(want_z + (want_y + x))
        want_y = net(want_y + want_z)
    got_y, got_z = ops.latent_recursion(y, z, x, weights, 2, cycles=2, groups=groups, group_scale=1.5)
    torch.testing.assert_close(got_y, want_y)
    torch.testing.assert_close(got_z, want_z)


def test_groups_exclude_heads_mask_and_causal_order(random):
    z, *weights, groups = inputs(random, 2, UNEVEN, 4, 4)
    for option in ({"heads": 2}, {"causal": True}, {"mask": torch.ones(2, 7, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="neither heads, mask nor causal order"):
            ops.latent_step(z, z, weights, groups=groups, **option)
