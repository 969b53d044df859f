"""The op latent_recursion against its reference: results, gradients, masks, threads and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trm_fast import ops as plain_ops
from trm_fast.ops import reference

ops: Any = plain_ops  # with flat_recursion, which the fixture below adds

# B, L, D, inner, heads (0: token mixer), n: several groups, odd sizes.
SHAPES = [(2, 97, 72, 24, 0, 2), (3, 7, 20, 12, 0, 2), (40, 16, 64, 32, 0, 1), (3, 81, 24, 12, 2, 2)]
KINDS = ["dual", "single", "single without x at last"]


def weights_of(random, L, D, inner, heads, blocks=2):
    tensors = []
    for _ in range(blocks):
        width = D if heads else L
        shapes = [(3 * D, D), (D, D)] if heads else [(2 * inner, width), (width, inner)]
        tensors += [random(*shape) * shape[1] ** -0.5 for shape in (*shapes, (2 * inner, D), (D, inner))]
    return tensors


def inputs(random, shape, kind="dual", blocks=2):
    """z, x and the weights; in dual state y first."""
    B, L, D, inner, heads, _ = shape
    states = [random(B, L, D) for _ in range(3 if kind == "dual" else 2)]
    return states + weights_of(random, L, D, inner, heads, blocks)


@pytest.fixture(autouse=True)
def flat(monkeypatch):
    """``flat_recursion``: the op and its reference with the weights as arguments, and one tensor as the result."""

    def of(recursion):
        def run(*tensors, kind="dual", n, **options):
            y, z, x, *weights = tensors if kind == "dual" else (None, *tensors)
            y, z = recursion(y, z, x, weights, n, inject_last=kind != KINDS[2], **options)
            return z if y is None else torch.cat((y, z))

        return run

    for module in (ops, reference):
        monkeypatch.setattr(module, "flat_recursion", of(module.latent_recursion), raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reference(isa, check, random, shape, kind):
    check("flat_recursion", *inputs(random, shape, kind), kind=kind, n=shape[-1], heads=shape[-2])


@pytest.mark.parametrize("kind", KINDS)
def test_no_latent_steps_and_one_block(cpp, check, random, kind):
    tensors = inputs(random, SHAPES[1], kind, blocks=1)
    if kind == "single":
        check("flat_recursion", *tensors, kind=kind, n=0)
    if kind == "dual":  # z stays as it is, and x does not count
        y, z, x, *weights = tensors
        for cycles in (1, 3):
            with torch.no_grad():
                got_y, got_z = ops.latent_recursion(y, z, x, weights, 0, cycles=cycles)
            wide = [t.double() for t in (y, z, x, *weights)]
            want_y, _ = reference.latent_recursion(*wide[:3], wide[3:], 0, cycles=cycles)
            assert torch.equal(got_z, z)
            torch.testing.assert_close(got_y.double(), want_y, rtol=1e-4, atol=1e-5)
        leaves = [t.requires_grad_() for t in (y, z, *weights)]
        results = [op(y, z, x, weights, 0) for op in (ops.latent_recursion, reference.latent_recursion)]
        for got, want in zip(*(torch.autograd.grad((a * b).sum(), leaves) for a, b in results), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    check("flat_recursion", *tensors, kind=kind, n=1)


def test_rotary_positions(isa, check, random):
    shape = (2, 9, 24, 12, 3, 2)
    angles = random(9, 8)
    check("flat_recursion", *inputs(random, shape), n=1, heads=3, rotary=(angles.cos(), angles.sin()))


def masks(B, L, heads):
    """Masks with rows of very different lengths, and with padding in any position. Little padding for token mixers:
    with few tokens and channels, their norms over tokens amplify rounding, also in the reference."""
    prefixes = torch.arange(L) < torch.linspace(1 if heads else (3 * L + 3) // 4, L, B).long().unsqueeze(1)
    holes = torch.rand(B, L, generator=torch.Generator().manual_seed(2)) < (0.6 if heads else 0.8)
    return prefixes, holes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (5, 150, 24, 12, 2, 1)])
def test_masks_agree_with_reference(isa, check, random, shape, kind):
    B, L, *_, heads, _ = shape
    for causal in (False, True) if heads else (False,):
        for mask in masks(B, L, heads):
            options = {"kind": kind, "n": 1, "heads": heads, "mask": mask, "causal": causal}
            check("flat_recursion", *inputs(random, shape, kind), **options)
            with torch.no_grad():
                tensors = inputs(random, shape, kind)
                want = reference.flat_recursion(*[t.double() for t in tensors], **options, cycles=2)
                got = ops.flat_recursion(*tensors, **options, cycles=2)
                torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [0, 2])
def test_masks_of_a_single_application(isa, random, heads):
    """An application without an injection; the caller's state does not change at padding."""
    z, x, *weights = inputs(random, (3, 9, 20, 12, heads, 0), KINDS[2])
    leaves = [t.requires_grad_() for t in (z, *weights)]
    for mask in masks(3, 9, 2):
        results = []
        for op in (ops.flat_recursion, reference.flat_recursion):
            out = op(z, x, *weights, kind=KINDS[2], n=0, heads=heads, mask=mask)
            results.append((out, *torch.autograd.grad(out.sin().sum(), leaves)))
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("heads", [0, 2])
def test_the_values_of_padding_do_not_matter(cpp, random, heads, threads):
    """They change no bit elsewhere, and padding gets no gradient unless the loss depends on its output."""
    y, z, x, *weights = inputs(random, (2, 70, 20, 12, heads, 2))
    mask = masks(2, 70, heads)[0]
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for fill in (0.0, 7.0):
            states = [t.where(mask.unsqueeze(-1), fill).requires_grad_() for t in (y, z, x)]
            out = torch.stack(ops.latent_recursion(*states, weights, 2, heads=heads, mask=mask))
            gradients = torch.autograd.grad(out[:, mask].square().sum(), states)
            assert all((g[~mask] == 0).all() for g in gradients)
            results.append([out[:, mask], *(g[mask] for g in gradients)])
    finally:
        torch.set_num_threads(previous)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_gradient_and_in_cycles(isa, random, shape, kind):
    with torch.no_grad():
        options = {"kind": kind, "n": shape[-1], "heads": shape[-2], "cycles": 2}
        tensors = inputs(random, shape, kind)
        want = reference.flat_recursion(*[t.double() for t in tensors], **options)
        torch.testing.assert_close(ops.flat_recursion(*tensors, **options).double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(1, 97, 72, 24, 0, 1), (4, 9, 140, 12, 2, 1)])
def test_threads_agree_and_repeat(cpp, random, shape, threads):
    """Threads divide the layers of few examples, and take many examples whole; the bits repeat."""
    tensors = [t.requires_grad_() for t in inputs(random, shape)]

    def run(recursion):
        out = recursion(*tensors, n=shape[-1], heads=shape[-2])
        return [out, *torch.autograd.grad(out.square().sum(), tensors)]

    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = run(ops.flat_recursion), run(ops.flat_recursion)
    finally:
        torch.set_num_threads(previous)
    for a, b, want in zip(first, second, run(reference.flat_recursion), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, want, rtol=1e-3, atol=1e-3)


def test_a_row_has_the_same_result_alone_and_in_a_batch(cpp, random):
    y, z, x, *weights = inputs(random, SHAPES[2])
    in_batch = ops.latent_recursion(y, z, x, weights, 1)
    for row in (0, 13, 39):
        alone = ops.latent_recursion(y[row, None], z[row, None], x[row, None], weights, 1)
        for a, t in zip(alone, in_batch, strict=True):
            torch.testing.assert_close(a[0], t[row])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_specials_stay_in_their_sample(isa, random, shape, poison):
    tensors = inputs(random, shape)
    tensors[1][1, 2, 3] = poison
    out = ops.flat_recursion(*tensors, n=1, heads=shape[-2]).unflatten(0, (2, -1)).transpose(0, 1)
    assert not out[1].isfinite().all()
    assert out[torch.arange(shape[0]) != 1].isfinite().all()


def test_no_samples(cpp, random):
    tensors = [t.requires_grad_() for t in inputs(random, (0, 5, 8, 4, 0, 1))]
    out = ops.flat_recursion(*tensors, n=1)
    assert out.shape == (0, 5, 8)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), tensors))


def test_backward_twice(cpp, random):
    tensors = [t.requires_grad_() for t in inputs(random, SHAPES[0])]
    loss = ops.flat_recursion(*tensors, n=2).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("part", [0, 1])
def test_gradient_of_one_of_the_states(cpp, random, part):
    tensors = [t.requires_grad_() for t in inputs(random, SHAPES[1])]
    for a, b in zip(
        *(
            torch.autograd.grad(
                run(*tensors, n=2).chunk(2)[part].square().sum(), tensors, allow_unused=True, materialize_grads=True
            )
            for run in (ops.flat_recursion, reference.flat_recursion)
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_gradcheck(random):
    tensors = [t.double().requires_grad_() for t in inputs(random, (2, 3, 4, 2, 0, 1), blocks=1)]
    with ops.use_backend("reference"):
        assert torch.autograd.gradcheck(lambda *t: ops.flat_recursion(*t, n=1), tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 7, 20, 12, 0, 2),
        pytest.param((2, 70, 12, 4, 0, 1), marks=pytest.mark.slow),
        pytest.param((2, 5, 70, 4, 2, 1), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(cpp, random, shape, kind, masked):
    y, z, x, *weights = inputs(random, shape)
    y = y if kind == "dual" else None
    heads, n = shape[-2:]
    last, masking = kind != KINDS[2], (masks(*shape[:2], heads)[1] if masked else None, masked and heads > 0)
    fwd, bwd = torch.ops.trm_fast.latent_recursion_fwd.default, torch.ops.trm_fast.latent_recursion_bwd.default
    mask, causal = masking
    layers = (weights, None, None, mask, None, heads, 1.0, 1e-5, causal)
    for keep in (False, True):
        torch.library.opcheck(fwd, (y, z, x, n, last, 1, keep, *layers))
    saved = fwd(y, z, x, n, last, 1, True, *layers)[2]
    arguments = (z, saved, n, y is not None, last, *layers)
    torch.library.opcheck(bwd, (y, z, *arguments))
    torch.library.opcheck(bwd, (y, None, *arguments))


@pytest.mark.parametrize("mask", [None, masks(3, 7, 0)[0]])
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_to_one_graph(cpp, compiled, random, kind, mask):
    compiled("flat_recursion", *inputs(random, SHAPES[1], kind), kind=kind, n=2, mask=mask)


def test_states_must_agree(random):
    y, z, x, *weights = inputs(random, SHAPES[1])
    with pytest.raises(ValueError, match=r"x is \(2, 7, 20\) torch.float32, z is \(3, 7, 20\)"):
        ops.latent_recursion(y, z, x[:2], weights, 2)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("kind", ["dual", "single"])
def test_wrong_counts(native, random, backend, kind):
    y, z, x, *weights = inputs(random, SHAPES[1])
    y = y if kind == "dual" else None
    with ops.use_backend(backend):
        for n, cycles in ((-1, 1), (-1, 2), (2, 0), (0, -1)):
            with pytest.raises(ValueError, match=f"but they are {n} and {cycles}"):
                ops.latent_recursion(y, z, x, weights, n, cycles=cycles)
        for count in (0, 3, 7):
            with pytest.raises(ValueError, match=f"expected 4 weights per layer, but got {count}"):
                ops.latent_recursion(y, z, x, weights[:count], 2)
        with pytest.raises(ValueError, match="expected 2 weights per layer, but got 1"):
            ops.latent_recursion(y, z, x, weights[:1], 2, groups=torch.zeros(1, 7, dtype=torch.int64))
        with pytest.raises(ValueError, match="causal order needs attention"):
            ops.latent_recursion(y, z, x, weights, 2, causal=True)


def test_gradients_need_one_cycle(cpp, random):
    y, z, x, *weights = inputs(random, SHAPES[1])
    with pytest.raises(ValueError, match="cycles=1, not 2"):
        ops.latent_recursion(y, z.requires_grad_(), x, weights, 2, cycles=2)


def test_weights_must_fit(cpp, random):
    y, z, x, *weights = inputs(random, SHAPES[1])
    with pytest.raises(RuntimeError, match="a weight's shape does not fit"):
        ops.latent_recursion(y, z, x, [w[:, 1:] for w in weights], 2)
