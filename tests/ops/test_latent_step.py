"""The op latent_step against its reference and against its layers one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trm_fast import ops as plain_ops
from trm_fast.ops import reference

ops: Any = plain_ops  # with flat_step, which the fixture below adds


@pytest.fixture(autouse=True)
def flat(monkeypatch):
    """``flat_step``: the op and its reference with the weights as arguments."""
    for module in (ops, reference):
        step = module.latent_step
        monkeypatch.setattr(module, "flat_step", lambda z, x, *w, step=step, **o: step(z, x, w, **o), raising=False)


def inputs(random, B, L, D, inner, heads=0):
    mix = [(3 * D, D), (D, D)] if heads else [(2 * inner, L), (L, inner)]
    weights = [random(*shape) * shape[1] ** -0.5 for shape in (*mix, (2 * inner, D), (D, inner))]
    return [random(B, L, D), random(B, L, D), *weights]


@pytest.mark.parametrize("shape", [(2, 97, 72, 24), (3, 7, 20, 12), (2, 81, 24, 12, 2)])
def test_agrees_with_reference(isa, check, random, shape):
    check("flat_step", *inputs(random, *shape), heads=shape[4] if len(shape) > 4 else 0)


def test_equals_the_layers_one_after_the_other(cpp, random):
    z, x, *w = inputs(random, 2, 33, 20, 12)
    torch.testing.assert_close(ops.latent_step(z, x, w), ops.mlp(ops.token_mixer(z + x, *w[:2]), *w[2:]))


def test_compiles_to_one_graph(cpp, compiled, random):
    compiled("flat_step", *inputs(random, 2, 9, 20, 12))


def test_gradcheck(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, 2, 3, 4, 2)]
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(ops.flat_step, tensors)


def test_states_must_agree(random):
    z, x, *weights = inputs(random, 2, 9, 20, 12)
    with pytest.raises(ValueError, match="injection is"):
        ops.latent_step(z, x[:1], weights)


def test_padding_is_read_as_zeros_by_a_mixer(random):
    """In every block, before its token mixer, whatever the values of the padding are."""
    z, x, mask = random(2, 5, 8), random(2, 5, 8), torch.rand(2, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    weights = [random(12, 5), random(5, 6), random(20, 8), random(8, 10)] * 2
    with ops.use_backend("reference"):
        want = z + x
        for i in (0, 4):
            want = ops.mlp(ops.token_mixer(want * mask.unsqueeze(-1), *weights[i : i + 2]), *weights[i + 2 : i + 4])
    torch.testing.assert_close(ops.latent_step(z, x, weights, mask=mask), want)
    filled = z.where(mask.unsqueeze(-1), 7.0)
    assert torch.equal(ops.latent_step(filled, x, weights, mask=mask), ops.latent_step(z, x, weights, mask=mask))


def test_weights_are_cast_to_the_states(random):
    z, x = random(1, 5, 8), random(1, 5, 8)
    weights = [random(12, 5), random(5, 6), random(20, 8), random(8, 10)]
    with ops.use_backend("reference"):
        result = ops.latent_step(z.bfloat16(), x.bfloat16(), weights)
        assert torch.equal(result, ops.latent_step(z.bfloat16(), x.bfloat16(), [w.bfloat16() for w in weights]))
