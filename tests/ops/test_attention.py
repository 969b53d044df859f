from __future__ import annotations

import pytest
import torch

from trm_fast import ops

# B, L, D, heads; 150 tokens are more than a block of queries.
SHAPES = [(2, 97, 64, 4), (3, 81, 20, 2), (1, 150, 24, 3), (1, 1, 2, 1)]


def inputs(random, B, L, D):
    return random(B, L, D), random(3 * D, D) * D**-0.5, random(D, D) * D**-0.5


def tables(L, width):
    angles = torch.outer(torch.arange(L).float(), torch.linspace(1, 0.01, width // 2)).repeat(1, 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotary", [False, True])
def test_agrees_with_reference(isa, check, random, shape, rotary):
    B, L, D, heads = shape
    check("attention", *inputs(random, B, L, D), heads, rotary=tables(L, D // heads) if rotary else None)


def test_halves_may_turn_by_different_angles(isa, check, random):
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
def test_opcheck(cpp, random, rotary):
    h, qkv, out = inputs(random, 2, 9, 20)
    for keep in (False, True):
        torch.library.opcheck(torch.ops.trm_fast.attention_fwd.default, (h, qkv, out, 2, *rotary, 1e-5, keep))
    saved = torch.ops.trm_fast.attention_fwd(h, qkv, out, 2, *rotary, 1e-5, True)[1]
    torch.library.opcheck(torch.ops.trm_fast.attention_bwd.default, (h, h, saved, qkv, out, 2, *rotary, 1e-5))


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("attention", *inputs(random, 2, 9, 20), 2, rotary=tables(9, 10))


def test_arguments_must_fit(random):
    h, qkv, out = inputs(random, 2, 9, 20)
    with pytest.raises(ValueError, match="3 heads must divide 20"):
        ops.attention(h, qkv, out, 3)
    with pytest.raises(ValueError, match=r"cos and sin must be \(9, 10\)"):
        ops.attention(h, qkv, out, 2, tables(8, 10))


@pytest.mark.parametrize("heads", [1, 2])
def test_padding_is_as_if_it_were_cut_off(random, heads):
    """By the row without it, and whatever the padding holds; auto passes over kernels that know no masks."""
    h, qkv, out = inputs(random, 3, 7, 20)
    lengths = [7, 4, 1]
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    cos, sin = tables(7, 20 // heads)
    for causal in (False, True):
        y = ops.attention(h, qkv, out, heads, (cos, sin), mask=mask, causal=causal)
        for row, length in enumerate(lengths):
            short = h[row : row + 1, :length], qkv, out, heads, (cos[:length], sin[:length])
            torch.testing.assert_close(y[row, :length], ops.attention(*short, causal=causal)[0])


def test_causal_tokens_do_not_see_later_ones(random):
    h, qkv, out = inputs(random, 2, 9, 20)
    changed = torch.cat((h[:, :5], random(2, 4, 20)), 1)
    ys = [ops.attention(x, qkv, out, 2, causal=True) for x in (h, changed)]
    torch.testing.assert_close(ys[0][:, :5], ys[1][:, :5])
    assert not torch.allclose(ys[0][:, 5:], ys[1][:, 5:])


def test_masks_are_checked_and_not_ignored(cpp, random):
    h, qkv, out = inputs(random, 2, 9, 20)
    for mask, causal in ((torch.ones(2, 9, dtype=torch.bool), False), (None, True)):
        with pytest.raises(ops.BackendUnavailable, match="know neither padding nor causal order"):
            ops.attention(h, qkv, out, 2, mask=mask, causal=causal)
    with pytest.raises(ValueError, match=r"the mask must be bool, \(2, 9\)"):
        ops.attention(h, qkv, out, 2, mask=torch.ones(2, 9))


def test_gradcheck_with_padding(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, 2, 4, 4)]
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(lambda *t: ops.attention(*t, 2, mask=mask, causal=True), tensors)
