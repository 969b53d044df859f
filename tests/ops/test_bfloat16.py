"""The layers in bfloat16 on a CPU, forward and backward, against the reference in float64.

The emulated products run on every machine. They differ from a processor's own only in the rounding of a pair's sum, and
in denormal numbers, which processors may take as zero.
"""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import dispatch, selection

from .conftest import error_bound

FUSED = {"mlp", "token_mixer", "group_mixer", "attention", "latent_step", "latent_recursion"}
# B, L, D, inner, heads (0: token mixer): odd depths, several groups, more channels than one pass of the MLP.
SHAPES = [(2, 97, 72, 24, 0), (3, 7, 20, 12, 0), (40, 16, 64, 33, 0), (3, 81, 24, 12, 2), (1, 35, 39, 555, 3)]
EPS = 1e-5


@pytest.fixture(params=["emulated", "avx512bf16", "amxbf16", "neonbf16"])
def bfloat16(request, native):
    previous = native.cpu_path()
    try:
        native.set_cpu_path(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    with ops.use_backend("cpp"):
        yield request.param
        native.set_cpu_path(previous)


def weights_for(random, L, D, inner, heads, blocks=2):
    weights = []
    for _ in range(blocks):
        first = [(3 * D, D), (D, D)] if heads else [(2 * inner, L), (L, inner)]
        weights += [random(*s) * s[1] ** -0.5 for s in (*first, (2 * inner, D), (D, inner))]
    return [w.bfloat16() for w in weights]


def masks(B, L):
    """Masks with rows of different lengths, and with padding in any position."""
    prefixes = torch.arange(L) < torch.linspace((3 * L + 3) // 4, L, B).long().unsqueeze(1)
    return prefixes, torch.rand(B, L, generator=torch.Generator().manual_seed(2)) < 0.8


def mapped(function, value):
    """Applies a function to the floating-point tensors of nested lists."""
    if isinstance(value, (list, tuple)):
        return [mapped(function, v) for v in value]
    return function(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def results(op, arguments, options):
    """The outputs, and the gradients of all floating-point arguments for fixed gradients of the outputs."""
    leaves = []

    def leaf(t):
        leaves.append(t.detach().clone().requires_grad_())
        return leaves[-1]

    out = op(*mapped(leaf, arguments), **options)
    outputs = [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator).bfloat16().to(t.dtype) for t in outputs]
    return [t.detach() for t in outputs], torch.autograd.grad(outputs, leaves, grads)


def within_policy(name, *arguments, **options):
    plain_op = getattr(reference, name)
    runs = [results(getattr(ops, name), arguments, options), results(plain_op, arguments, options)]
    runs.append(results(plain_op, mapped(torch.Tensor.double, arguments), {k: wide(v) for k, v in options.items()}))
    outputs, gradients = zip(*runs, strict=True)
    for kernel, plain, truth in zip(*outputs, strict=True):
        assert (kernel.dtype, kernel.shape) == (torch.bfloat16, truth.shape)
        for size in (torch.linalg.vector_norm, lambda e: e.abs().max()):
            assert size(kernel.double() - truth) <= 2 * size(plain.double() - truth)
    for kernel, plain, truth in zip(*gradients, strict=True):
        assert kernel.dtype == torch.bfloat16
        error_bound(kernel, plain, truth, factor=3, scale=torch.ones_like(truth))


def wide(value):
    return mapped(torch.Tensor.double, value)


@pytest.mark.parametrize("shape", SHAPES)
def test_layers(bfloat16, random, shape):
    B, L, D, inner, heads = shape
    h = random(B, L, D).bfloat16()
    h[0, L // 2] = 0
    *first, gate_up, down = weights_for(random, L, D, inner, heads, blocks=1)
    within_policy("mlp", h, gate_up, down)
    if heads:
        angles = random(L, D // heads).bfloat16()
        rotary = None if D // heads % 2 else (angles.cos(), angles.sin())
        within_policy("attention", h, *first, heads=heads, rotary=rotary)
        for mask in masks(B, L):
            within_policy("attention", h, *first, heads=heads, rotary=rotary, mask=mask, causal=True)
    else:
        within_policy("token_mixer", h, *first)


@pytest.mark.parametrize(("size", "inner"), [((2, 18, 40), 24), ((1, 81, 24), 139)])
def test_groups(bfloat16, random, size, inner):
    B, L, D = size
    z, x = (random(B, L, D).bfloat16() for _ in range(2))
    cells = torch.arange(L)
    groups = torch.stack((cells // 9, cells % 9, cells % 2))
    gate_up, down = (random(*s) * s[1] ** -0.5 for s in ((2 * inner, 4 * D), (D, inner)))
    weights = [gate_up.bfloat16(), down.bfloat16()]
    within_policy("group_mixer", z, *weights, groups=groups, scale=1.5)
    within_policy("latent_step", z, x, weights, groups=groups, group_scale=1.5)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_recursion_and_step(bfloat16, random, shape, dual):
    B, L, D, inner, heads = shape
    y, z, x = (random(B, L, D).bfloat16() for _ in range(3))
    weights = weights_for(random, L, D, inner, heads)
    within_policy("latent_step", z, x, weights, heads=heads)
    for last in (True, False):
        states = (y if dual else None, z, x)
        within_policy("latent_recursion", *states, weights, 1, heads=heads, inject_last=last)
        for mask in masks(B, L):
            options = {"heads": heads, "inject_last": last, "mask": mask, "causal": heads > 0}
            within_policy("latent_recursion", *states, weights, 1, **options)


@pytest.mark.parametrize("dual", [True, False])
def test_cycles_without_gradient(bfloat16, random, dual):
    y, z, x = (random(3, 7, 20).bfloat16() for _ in range(3))
    weights, states = weights_for(random, 7, 20, 12, 0), (y if dual else None, z, x)
    with torch.no_grad():
        kernel, plain = (side.latent_recursion(*states, weights, 2, cycles=2)[1] for side in (ops, reference))
        truth = reference.latent_recursion(*wide(states), wide(weights), 2, cycles=2)[1]
    error_bound(kernel, plain, truth, factor=2, scale=truth)


def rounded(t):
    return t.to(torch.bfloat16).double()


def exact_layer(h, gate_up, down, dy):
    """An MLP in float64 whose products have factors rounded to bfloat16, and which keeps gate and up in bfloat16 for
    the backward. Returns y and the gradients of h and of both weights."""
    gate, up = (rounded(h) @ rounded(gate_up).T).chunk(2, -1)
    t = h + rounded(gate * gate.sigmoid() * up) @ rounded(down).T
    rstd = (t.square().mean(-1, keepdim=True) + EPS).rsqrt()
    y = t * rstd
    d = rstd * (dy - y * (dy * y).mean(-1, keepdim=True))
    gate, up = rounded(gate), rounded(up)
    s, dout = gate.sigmoid(), rounded(d) @ rounded(down)
    dgate_up = torch.cat((dout * up * s * (1 + gate * (1 - s)), dout * gate * s), -1)
    rows = lambda t: rounded(t).flatten(0, 1)  # noqa: E731
    dh = d + rounded(dgate_up) @ rounded(gate_up)
    return y, dh, rows(dgate_up).T @ rows(h), rows(d).T @ rows(gate * s * up)


@pytest.mark.parametrize("op", ["mlp", "token_mixer"])
@pytest.mark.parametrize(("B", "L", "D", "inner"), [(4, 97, 72, 40), (1, 7, 33, 150), (9, 16, 64, 24)])
def test_products_round_their_factors_once_and_sum_in_float32(bfloat16, random, op, B, L, D, inner):
    """Results differ from exact ones only where a float32 number is rounded to another bfloat16 number. Float32 weights
    are rounded by the kernels, and get float32 gradients."""
    h, dy = (random(B, L, D).bfloat16() for _ in range(2))
    width = D if op == "mlp" else L
    gate_up, down = random(2 * inner, width) * width**-0.5, random(width, inner) * inner**-0.5
    y, saved = getattr(torch.ops.trm_fast, f"{op}_fwd").default(h, True, gate_up, down, EPS)
    assert saved.dtype == torch.float32
    got = (y, *getattr(torch.ops.trm_fast, f"{op}_bwd").default(dy, h, saved, gate_up, down, EPS))
    turn = (lambda t: t) if op == "mlp" else (lambda t: t.mT)
    y, dh, *dweights = exact_layer(turn(h).double(), gate_up.double(), down.double(), turn(dy).double())
    for kernel, want in zip(got, (turn(y), turn(dh), *dweights), strict=True):
        if kernel.dtype == torch.bfloat16:
            want = rounded(want)
        error = torch.linalg.vector_norm(kernel.double() - want) / torch.linalg.vector_norm(want)
        assert error < 2e-4, "a product that does not round its factors, or rounds its sum, costs 2e-3 or more"
    assert all(g.dtype == torch.float32 for g in got[2:])


def test_float32_weights_equal_rounded_ones(bfloat16, random):
    y, z, x = (random(2, 9, 32).bfloat16() for _ in range(3))
    wide_weights = [w.float() + 1e-5 for w in weights_for(random, 9, 32, 20, 0)]
    calls = []
    for dtype in (torch.float32, torch.bfloat16):
        weights = [w.to(dtype).requires_grad_() for w in wide_weights]
        out = ops.latent_recursion(y, z, x, weights, 2)
        calls.append((torch.cat(out).detach(), torch.autograd.grad(torch.cat(out).square().sum(), weights)))
    (outputs, gradients), (rounded_outputs, rounded_gradients) = calls
    assert torch.equal(outputs, rounded_outputs)
    for g, r in zip(gradients, rounded_gradients, strict=True):
        assert g.dtype == torch.float32
        assert torch.equal(g.bfloat16(), r)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 97, 40, 24, 0), (4, 9, 30, 12, 2)])
def test_threads_repeat(bfloat16, random, shape, threads):
    B, L, D, inner, heads = shape
    states, weights = [random(B, L, D).bfloat16() for _ in range(3)], weights_for(random, L, D, inner, heads)
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (results(ops.latent_recursion, (*states, weights, 1), {"heads": heads}) for _ in range(2))
        within_policy("latent_recursion", *states, weights, 1, heads=heads)
    finally:
        torch.set_num_threads(previous)
    assert all(torch.equal(a, b) for p, q in zip(first, second, strict=True) for a, b in zip(p, q, strict=True))


def test_opcheck_and_strided_states(bfloat16, random):
    z, x = (random(3, 20, 7).bfloat16().mT for _ in range(2))
    weights = weights_for(random, 7, 20, 12, 0)
    within_policy("latent_step", z, x, weights)
    fwd, bwd = torch.ops.trm_fast.latent_recursion_fwd.default, torch.ops.trm_fast.latent_recursion_bwd.default
    for matrices, heads in ((weights, 0), (weights_for(random, 7, 20, 12, 2), 2)):
        layers = (matrices, None, None, None, None, heads, 1.0, EPS, False)
        for keep in (False, True):
            torch.library.opcheck(fwd, (None, z, x, 1, True, 1, keep, *layers))
        saved = fwd(None, z, x, 1, True, 1, True, *layers)[2]
        torch.library.opcheck(bwd, (None, z, z, saved, 1, False, True, *layers))


def test_compiles_to_one_graph(bfloat16, compiled, random):
    h = random(2, 9, 64).bfloat16()
    compiled("mlp", h, *weights_for(random, 9, 64, 40, 0, blocks=1)[2:])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("heads", [0, 2])
def test_specials_stay_in_their_sample(bfloat16, random, poison, heads):
    z, x = (random(4, 7, 20).bfloat16() for _ in range(2))
    z[1, 2, 3] = poison
    arguments = z, x, weights_for(random, 7, 20, 12, heads)
    (out,), (dz, dx, *dweights) = results(ops.latent_step, arguments, {"heads": heads})
    others = torch.arange(4) != 1
    for t in (out, dz, dx):
        assert not t[1].isfinite().all()
        assert t[others].isfinite().all()
    assert not any(g.isfinite().all() for g in dweights)


def test_no_samples(bfloat16, random):
    z, x = (random(0, 7, 20).bfloat16() for _ in range(2))
    (out,), (_, _, *dweights) = results(ops.latent_step, (z, x, weights_for(random, 7, 20, 12, 0)), {})
    assert out.shape == z.shape
    assert all((g == 0).all() and g.dtype == torch.bfloat16 for g in dweights)


def test_gradients_can_be_differentiated_again(bfloat16, random):
    """By way of the reference, also for float32 weights."""
    z, x = (random(2, 9, 32).bfloat16().requires_grad_() for _ in range(2))
    weights = [w.float().requires_grad_() for w in weights_for(random, 9, 32, 20, 0, blocks=1)]
    (dz,) = torch.autograd.grad(ops.latent_step(z, x, weights).float().square().sum(), z, create_graph=True)
    second = torch.autograd.grad(dz.float().square().sum(), [x, *weights])
    assert [g.dtype for g in second] == [torch.bfloat16] + 4 * [torch.float32]
    assert all(g.isfinite().all() for g in second)


def test_automatic_choice(bfloat16, random):
    h = random(2, 9, 64).bfloat16()
    with ops.use_backend("auto"):
        assert dispatch.select("mlp", h.requires_grad_()) == "cpp"
        assert dispatch.has_kernel("latent_recursion", h)
        rows = {r.op: r.backend for r in ops.table(["cpu"], [torch.bfloat16]) if r.op in FUSED}
    assert rows == dict.fromkeys(FUSED, "cpp")


def test_other_instruction_sets_refuse_bfloat16(bfloat16, native, random):
    h = random(2, 9, 64).bfloat16()
    weights = weights_for(random, 9, 64, 40, 0, blocks=1)[2:]
    native.set_cpu_path("portable")
    with pytest.raises(RuntimeError, match="and the kernels run as portable"):
        torch.ops.trm_fast.mlp_fwd.default(h, False, *weights, EPS)
    assert "the path is portable" in str(selection.unavailable("mlp", "cpp", "cpu", torch.bfloat16))
    with ops.use_backend("auto"):
        assert dispatch.select("mlp", h) == "reference"
        rows = {r.op: r.backend for r in ops.table(["cpu"], [torch.bfloat16]) if r.op in FUSED}
    assert rows == dict.fromkeys(FUSED, "reference")
