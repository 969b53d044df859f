"""The op token_mixer against its reference: results, gradients, layouts, special values and errors."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops

# B, L, D, inner: the paper's odd lengths, channels that fill no vector, deep and shallow products, incomplete tiles.
SHAPES = [(2, 97, 72, 48), (3, 81, 20, 12), (1, 16, 64, 256), (2, 33, 300, 40), (2, 9, 21, 13), (1, 1, 1, 1)]


def inputs(random, B, L, D, inner):
    return random(B, L, D), random(2 * inner, L) * L**-0.5, random(L, inner) * inner**-0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reference(isa, check, random, shape):
    check("token_mixer", *inputs(random, *shape))


def test_any_layout(cpp, check, random):
    h, gate_up, down = inputs(random, 2, 30, 20, 12)
    check("token_mixer", random(2, 20, 30).transpose(1, 2), gate_up.t().contiguous().t(), down.t().contiguous().t())
    check("token_mixer", h[:1].expand(3, 30, 20), gate_up, down, grad=torch.ones(1, 1, 1).expand(3, 30, 20))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_specials_stay_in_their_channel(isa, random, poison):
    h, gate_up, down = inputs(random, 2, 30, 20, 12)
    h[1, 7, 3] = poison
    assert torch.equal(ops.token_mixer(h, gate_up, down).isfinite().all(1), h.isfinite().all(1))


def test_gates_of_every_magnitude(isa, gates):
    """Gates for which e^-gate overflows, is denormal, or vanishes beside 1."""
    gates("token_mixer", dim=1)


def test_gradcheck(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, 2, 3, 4, 3)]
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(ops.token_mixer, tensors)


@pytest.mark.parametrize("shape", [(2, 9, 20, 12), (2, 80, 5, 12)])
def test_opcheck(cpp, random, shape):
    h, gate_up, down = inputs(random, *shape)
    for keep in (False, True):
        torch.library.opcheck(torch.ops.trm_fast.token_mixer_fwd.default, (h, keep, gate_up, down, 1e-5))
    saved = torch.ops.trm_fast.token_mixer_fwd(h, True, gate_up, down, 1e-5)[1]
    torch.library.opcheck(torch.ops.trm_fast.token_mixer_bwd.default, (h, h, saved, gate_up, down, 1e-5))


def test_equals_the_mlp_of_the_transposed_input(cpp, random):
    h, gate_up, down = inputs(random, 2, 33, 20, 12)
    want = ops.mlp(h.transpose(1, 2), gate_up, down).transpose(1, 2)
    torch.testing.assert_close(ops.token_mixer(h, gate_up, down), want)


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("token_mixer", *inputs(random, 2, 9, 20, 12))


def test_no_samples(cpp, random):
    h, *weights = (t.requires_grad_() for t in inputs(random, 0, 7, 20, 12))
    y = ops.token_mixer(h, *weights)
    assert y.shape == h.shape
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), weights))


def test_weights_must_fit(random):
    h, gate_up, down = inputs(random, 2, 9, 20, 12)
    with pytest.raises(ValueError, match=r"must be \(2 I, 9\) and \(9, I\)"):
        ops.token_mixer(h, gate_up[:, :8], down)
