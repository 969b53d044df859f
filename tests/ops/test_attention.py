"""The op attention against its reference: results, gradients, masks, causal order, rotary positions and errors."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops

# B, L, D, heads; 150 tokens need more than one block of queries.
SHAPES = [(2, 97, 64, 4), (3, 81, 20, 2), (1, 150, 24, 3), (1, 1, 2, 1)]
KINDS = ["whole", "prefixes", "holes", "nothing", "one row padded"]


def inputs(random, B, L, D):
    return random(B, L, D), random(3 * D, D) * D**-0.5, random(D, D) * D**-0.5


def tables(L, width):
    angles = torch.outer(torch.arange(L).float(), torch.linspace(1, 0.01, width // 2)).repeat(1, 2)
    return angles.cos(), angles.sin()


def mask_of(kind, B, L):
    """A mask with rows of very different lengths, with padding in any position, or with empty rows; or None."""
    random = torch.rand(B, L, generator=torch.Generator().manual_seed(2))
    return {
        "whole": None,
        "prefixes": torch.arange(L) < torch.linspace(1, L, B).long().unsqueeze(1),
        "holes": random < 0.6,
        "nothing": random < 0,
        "one row padded": (torch.arange(B) > 0).unsqueeze(1) | (torch.arange(L) < L // 3),
    }[kind]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotary", [False, True])
def test_agrees_with_reference(isa, check, random, shape, rotary):
    B, L, D, heads = shape
    check("attention", *inputs(random, B, L, D), heads, rotary=tables(L, D // heads) if rotary else None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (4, 150, 24, 3)])
def test_masks_and_causal_order_agree_with_reference(isa, check, random, shape, kind, causal):
    B, L, D, heads = shape
    check("attention", *inputs(random, B, L, D), heads, tables(L, D // heads), mask=mask_of(kind, B, L), causal=causal)


def test_the_halves_may_rotate_by_different_angles(isa, check, random):
    check("attention", *inputs(random, 2, 9, 24), 2, rotary=(random(9, 12), random(9, 12)))


def test_any_layout(cpp, check, random):
    _, qkv, out = inputs(random, 2, 30, 20)
    check("attention", random(2, 20, 30).transpose(1, 2), qkv.t().contiguous().t(), out.t().contiguous().t(), 2)


def test_large_scores(isa, check, random):
    h, qkv, out = inputs(random, 2, 30, 20)
    check("attention", h, 6 * qkv, out, 2)


def test_specials_stay_in_their_sample(isa, random):
    h, qkv, out = inputs(random, 3, 30, 20)
    h[1, 7, 3] = torch.nan
    assert ops.attention(h, qkv, out, 2).isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert ops.attention(h, qkv, out, 2)[::2].isfinite().all()


def test_gradcheck(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, 2, 3, 4)]
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(lambda *t: ops.attention(*t, 2, tables(3, 2)), tensors)


@pytest.mark.parametrize("rotary", [(None, None), tables(9, 10)])
@pytest.mark.parametrize("masking", [(None, False), (mask_of("holes", 2, 9), True)])
def test_opcheck(cpp, random, rotary, masking):
    h, qkv, out = inputs(random, 2, 9, 20)
    layer = (qkv, out, *rotary, masking[0], 2, 1e-5, masking[1])
    fwd, bwd = torch.ops.trm_fast.attention_fwd.default, torch.ops.trm_fast.attention_bwd.default
    for keep in (False, True):
        torch.library.opcheck(fwd, (h, keep, *layer))
    saved = fwd(h, True, *layer)[1]
    torch.library.opcheck(bwd, (h, h, saved, *layer))


@pytest.mark.parametrize("mask", [None, mask_of("holes", 2, 9)])
def test_compiles_to_one_graph(cpp, compiled, random, mask):
    compiled("attention", *inputs(random, 2, 9, 20), 2, rotary=tables(9, 10), mask=mask, causal=mask is not None)


def test_arguments_must_fit(random):
    h, qkv, out = inputs(random, 2, 9, 20)
    with pytest.raises(ValueError, match="3 heads must divide 20"):
        ops.attention(h, qkv, out, 3)
    with pytest.raises(ValueError, match=r"cos and sin must be \(9, 10\)"):
        ops.attention(h, qkv, out, 2, tables(8, 10))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("L", [7, 150])
def test_padding_equals_rows_that_are_cut_off(cpp, random, L, causal):
    """Compares with the rows without padding, whatever values the padding has; the gradients, too."""
    tensors = [t.requires_grad_() for t in inputs(random, 3, L, 20)]
    h, qkv, out = tensors
    lengths = [L, L // 2, 1]
    mask = torch.arange(L) < torch.tensor(lengths).unsqueeze(1)
    cos, sin = tables(L, 10)
    y = ops.attention(h, qkv, out, 2, (cos, sin), mask=mask, causal=causal)
    filled = h.where(mask.unsqueeze(-1), 7.0)
    assert torch.equal(ops.attention(filled, qkv, out, 2, (cos, sin), mask=mask, causal=causal)[mask], y[mask])
    rows = [
        ops.attention(h[row, None, :length], qkv, out, 2, (cos[:length], sin[:length]), causal=causal)[0]
        for row, length in enumerate(lengths)
    ]
    torch.testing.assert_close(y[mask], torch.cat(rows))
    gradients = (torch.autograd.grad(output.sin().sum(), tensors) for output in (y[mask], torch.cat(rows)))
    for in_batch, by_row in zip(*gradients, strict=True):
        torch.testing.assert_close(in_batch, by_row, rtol=1e-4, atol=1e-4)


def test_causal_tokens_do_not_see_later_ones(cpp, random):
    h, qkv, out = inputs(random, 2, 99, 20)
    changed = torch.cat((h[:, :70], random(2, 29, 20)), 1)
    ys = [ops.attention(x, qkv, out, 2, causal=True) for x in (h, changed)]
    assert torch.equal(ys[0][:, :70], ys[1][:, :70])
    assert (ys[0][:, 70:] != ys[1][:, 70:]).any(-1).all()


def test_masks_are_checked(cpp, random):
    h, qkv, out = inputs(random, 2, 9, 20)
    with pytest.raises(ValueError, match=r"the mask must be bool, \(2, 9\)"):
        ops.attention(h, qkv, out, 2, mask=torch.ones(2, 9))
    with pytest.raises(RuntimeError, match=r"the mask must be bool and \(B, L\)"):
        torch.ops.trm_fast.attention_fwd(h, False, qkv, out, None, None, torch.ones(2, 9), 2, 1e-5, False)


def test_gradcheck_with_padding(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, 2, 4, 4)]
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(lambda *t: ops.attention(*t, 2, mask=mask, causal=True), tensors)
