"""Every op on the Triton backend against its reference in float64: small odd shapes, guard bands, compilation."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry

from .groups import UNEVEN, grouped_weights

FLOATS = [torch.float32, torch.float16]
if not registry.INTERPRETED:  # the interpreter computes products in bfloat16 wrongly
    FLOATS.append(torch.bfloat16)
KERNELS = torch.ops.trm_fast_triton


def move(device, dtype, *tensors):
    return [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in tensors]


def layer_weights(random, width, inner):
    return random(2 * inner, width) * width**-0.5, random(width, inner) * inner**-0.5


def attention_weights(random, D):
    return random(3 * D, D) * D**-0.5, random(D, D) * D**-0.5


def rotary_tables(random, L, width, device):
    angles = random(L, width // 2).repeat(1, 2)
    return angles.cos().to(device), angles.sin().to(device)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 97, 5), 1), ((5, 20), -1), ((2, 1, 3), 0), ((1, 33, 17), 1), ((0, 4), 1)]
)
@pytest.mark.parametrize("residual", [True, False])
def test_rms_norm(triton, check, random, device, shape, dim, dtype, residual):
    x, r = move(device, dtype, random(*shape), random(*shape))
    check("rms_norm", *((x, r) if residual else (x,)), dim=dim)


@pytest.mark.parametrize(("shape", "dim"), [((2, 9000), 1), ((2, 700, 3), 1)])
def test_rms_norm_of_lines_longer_than_a_block(triton, check, random, device, shape, dim):
    check("rms_norm", *move(device, torch.float32, random(*shape), random(*shape)), dim=dim)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "dim"), [((5, 38), -1), ((3, 6, 5), 1), ((0, 4), 1), ((1, 2), 1)])
def test_swiglu(triton, check, random, device, shape, dim, dtype):
    check("swiglu", *move(device, dtype, random(*shape)), dim=dim)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 5, 20, 12), (2, 17, 40, 70), (1, 1, 1, 1), (1, 3, 530, 8)])
def test_mlp(triton, check, random, device, shape, dtype):
    B, L, D, inner = shape
    check("mlp", *move(device, dtype, random(B, L, D), *layer_weights(random, D, inner)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 97, 20, 12), (2, 81, 33, 70), (3, 5, 40, 8), (1, 1, 1, 1), (2, 130, 9, 12)])
def test_token_mixer(triton, check, random, device, shape, dtype):
    B, L, D, inner = shape
    check("token_mixer", *move(device, dtype, random(B, L, D), *layer_weights(random, L, inner)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "heads"), [((1, 97, 16), 1), ((2, 5, 20), 2), ((1, 33, 6), 2), ((1, 1, 1), 1), ((1, 150, 8), 1)]
)
@pytest.mark.parametrize("rotary", [True, False])
def test_attention(triton, check, random, device, shape, heads, rotary, dtype):
    L, D = shape[1:]
    width = D // heads
    if rotary and width % 2:
        pytest.skip("rotary positions need an even width")
    tables = rotary_tables(random, L, width, device) if rotary else None
    h, *weights = move(device, dtype, random(*shape), *attention_weights(random, D))
    check("attention", h, *weights, heads=heads, rotary=tables)


def padding(random, B, L, device):
    """A mask with padding in every example, including its whole first half: a block of keys that no query attends
    to."""
    mask = random(B, L) > -0.5
    mask[:, : L // 2] = False
    return mask.to(device)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "heads"), [((1, 70, 8), 1), ((2, 5, 6), 3), ((1, 150, 4), 1)])
@pytest.mark.parametrize(("masked", "causal"), [(True, False), (False, True), (True, True)])
def test_attention_with_padding_and_in_order(triton, check, random, device, shape, heads, masked, causal, dtype):
    h, *weights = move(device, dtype, random(*shape), *attention_weights(random, shape[2]))
    mask = padding(random, *shape[:2], device) if masked else None
    check("attention", h, *weights, heads=heads, mask=mask, causal=causal)


@pytest.mark.parametrize("tokens", [81, 97, 120])
@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, True)])
def test_attention_with_heads_held_whole(triton, check, random, device, monkeypatch, tokens, masked, causal):
    """With the block sizes of an sm_90: one kernel for the whole backward, keys in pieces."""
    from trm_fast.triton_kernels import configs

    if device.type == "cpu":
        monkeypatch.setattr(configs, "architecture", lambda device: "sm_90")
    h, *weights = move(device, torch.float16, random(2, tokens, 80), *attention_weights(random, 80))
    mask = padding(random, 2, tokens, device) if masked else None
    rotary = rotary_tables(random, tokens, 40, device)
    check("attention", h, *weights, heads=2, rotary=rotary, mask=mask, causal=causal)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 7, 11), (97, 2), (1, 1), (1, 1030), (0, 5)])
@pytest.mark.parametrize("scale", [3, 1e3])
def test_stablemax_cross_entropy(triton, check, random, device, shape, scale, dtype):
    labels = torch.arange(torch.Size(shape[:-1]).numel()).reshape(shape[:-1]) % shape[-1]
    labels = labels.where(labels % 3 != 1, -100).int()
    check("stablemax_cross_entropy", *move(device, dtype, scale * random(*shape), labels))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "dim"), [((3, 7, 11), -1), ((2, 70, 3), 1), ((1, 1), 0), ((2, 1030), 1)])
@pytest.mark.parametrize("scale", [3, 1e3])
def test_stablemax(triton, check, random, device, shape, dim, scale, dtype):
    check("stablemax", *move(device, dtype, scale * random(*shape)), dim=dim, grad=random(*shape).double().to(device))


def test_stablemax_at_the_branch_and_outside(triton, device):
    """s'(0) = 1 from both sides; s'(1) is finite; an ignored row may have NaN; a wrong label gives NaN, and no
    access."""
    x = torch.tensor([[0.0, -0.0, 1.0, 1 + 1e-7], [torch.nan, 1, 2, 3], [0, 1, 2, 3]], device=device).requires_grad_()
    loss = ops.stablemax_cross_entropy(x, torch.tensor([0, -100, 4], device=device))
    (dx,) = torch.autograd.grad(loss[:2].sum(), x)
    want = torch.tensor([[1 / 6 - 1, 1 / 6, 1 / 6, 1 / 6], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(dx.cpu(), want, atol=1e-6, rtol=0)
    assert loss[1] == 0
    assert loss[2].isnan()


def network(random, L, D, heads, blocks=1):
    weights = []
    for _ in range(blocks):
        weights += attention_weights(random, D) if heads else layer_weights(random, L, 6)
        weights += layer_weights(random, D, 10)
    return weights


def recursion(op, dual, **options):
    """latent_recursion as a function of tensors with one result, for ``check``."""

    def run(*tensors, **extra):
        states, weights = tensors[: 2 + dual], tensors[2 + dual :]
        y, z = op(*(states if dual else (None, *states)), weights, **options, **extra)
        unused = 0 * states[-1]  # with n = 0 nothing uses x, and PyTorch would have no gradient for it
        return z if y is None else torch.stack((y, z + unused))

    return run


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize(
    ("dual", "n", "inject_last"), [(True, 2, True), (False, 1, True), (False, 1, False), (True, 0, True)]
)
def test_latent_recursion(triton, check, random, device, monkeypatch, heads, dual, n, inject_last):
    B, L, D = 2, 9, 12
    rotary = rotary_tables(random, L, D // heads, device) if heads else None
    options = {"n": n, "heads": heads, "inject_last": inject_last, "rotary": rotary}
    for module, name in ((ops, "recursion"), (reference, "recursion")):
        monkeypatch.setattr(module, name, recursion(module.latent_recursion, dual, **options), raising=False)
    tensors = move(device, torch.float32, *(random(B, L, D) for _ in range(2 + dual)), *network(random, L, D, heads))
    check("recursion", *tensors)


@pytest.mark.parametrize("heads", [0, 2])
def test_cycles_without_gradient(triton, random, device, heads):
    L, D = 5, 12
    states = move(device, torch.float32, *(random(1, L, D) for _ in range(3)))
    weights = move(device, torch.float32, *network(random, L, D, heads, blocks=2))
    previous = [t.clone() for t in states]
    got = ops.latent_recursion(*states, weights, 2, heads=heads, cycles=2)
    want = reference.latent_recursion(
        *(t.double() for t in states), [w.double() for w in weights], 2, heads=heads, cycles=2
    )
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, states, previous))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("heads", "L"), [(0, 9), (0, 131), (2, 9)])
@pytest.mark.parametrize("masked", [False, True])
def test_latent_step(triton, check, random, device, monkeypatch, heads, L, masked, dtype):
    mask = padding(random, 2, L, device) if masked else None
    for module in (ops, reference):
        step = partial(module.latent_step, heads=heads, mask=mask, causal=bool(heads and masked))
        monkeypatch.setattr(module, "one_step", lambda z, x, *w, step=step: step(z, x, w), raising=False)
    weights = network(random, L, 12, heads, blocks=2 if masked else 1)
    check("one_step", *move(device, dtype, random(2, L, 12), random(2, L, 12), *weights))


def test_padding_is_not_read(triton, random, device):
    """Values of padding change neither the other tokens nor any gradient but their own."""
    L, weights = 9, move(device, torch.float32, *network(random, 9, 12, 0))
    z, mask = random(2, L, 12).to(device), padding(random, 2, L, device)
    results = []
    for filling in (0.0, 7.0):
        leaf = torch.where(mask.unsqueeze(-1), z, filling).requires_grad_()
        y = ops.latent_step(leaf, torch.zeros_like(z), weights, mask=mask)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert not results[0][1][~mask].any()


def test_second_derivatives(triton, random, device):
    """They are the reference's."""
    states = move(device, torch.float32, *(random(1, 5, 12) for _ in range(3)))
    tensors = [*states, *move(device, torch.float32, *network(random, 5, 12, 0))]
    results = []
    for module in (ops, reference):
        y, z, x, *weights = leaves = [t.detach().requires_grad_() for t in tensors]
        out = module.rms_norm(torch.cat(module.latent_recursion(y, z, x, weights, 1)), dim=1).sin()
        first = torch.autograd.grad(out.sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(d.square().sum() for d in first), leaves))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_weights_in_another_dtype_than_the_states(triton, random, device):
    """float32 weights with states in a lower precision: they are cast once, and their gradients are float32."""
    z, x = move(device, torch.float16, random(1, 5, 12), random(1, 5, 12))
    weights = [w.to(device).requires_grad_() for w in network(random, 5, 12, 0)]
    y = ops.latent_recursion(z, x, x, weights, 2)[1]
    half_weights = [w.detach().half().requires_grad_() for w in weights]
    assert torch.equal(y, ops.latent_recursion(z, x, x, half_weights, 2)[1])
    for a, b in zip(
        torch.autograd.grad(y.sum(), weights),
        torch.autograd.grad(ops.latent_recursion(z, x, x, half_weights, 2)[1].sum(), half_weights),
        strict=True,
    ):
        assert a.dtype == torch.float32
        assert torch.equal(a, b.float())


@pytest.mark.parametrize(
    "op", ["rms_norm", "swiglu", "mlp", "token_mixer", "group_mixer", "attention", "latent_step", "masked", "parts"]
)
def test_stays_within_its_tensors(triton, random, device, guarded, op):
    L, D = (131, 10) if op == "parts" else (7, 10)
    h, gate_up, down = move(device, torch.float32, random(1, L, D), *layer_weights(random, D, 6))
    mix = move(device, torch.float32, *layer_weights(random, L, 6))
    calls = {
        "rms_norm": (lambda x: ops.rms_norm(x, x, dim=1), (h,)),
        "swiglu": (ops.swiglu, (h,)),
        "mlp": (ops.mlp, (h, gate_up, down)),
        "token_mixer": (ops.token_mixer, (h, *mix)),
        "parts": (ops.token_mixer, (h, *mix)),
        "group_mixer": (
            lambda *t: ops.group_mixer(*t, guarded(UNEVEN.to(device))),
            (h, *move(device, h.dtype, *grouped_weights(random, D, 6, UNEVEN))),
        ),
        "attention": (
            lambda *t: ops.attention(*t, heads=2),
            (h, *move(device, h.dtype, *attention_weights(random, D))),
        ),
        "latent_step": (lambda z, *w: ops.latent_step(z, z, w), (h, *mix, gate_up, down)),
        "masked": (
            lambda z, *w: ops.latent_step(z, z, w, heads=2, mask=guarded(padding(random, 1, L, device)), causal=True),
            (h, *move(device, h.dtype, *attention_weights(random, D)), gate_up, down),
        ),
    }
    run, inputs = calls[op]
    leaves = [guarded(t).requires_grad_() for t in inputs]
    results = [run(*leaves)]
    results += torch.autograd.grad(results[0].sum(), leaves)
    assert all(t.isfinite().all() for t in results)


@pytest.mark.parametrize("op", ["mlp", "token_mixer", "attention"])
def test_no_samples(triton, random, device, op):
    h = torch.empty(0, 6, 12, device=device)
    weights = (
        attention_weights(random, 12)
        if op == "attention"
        else layer_weights(random, 6 if op == "token_mixer" else 12, 5)
    )
    leaves = [t.requires_grad_() for t in (h, *move(device, h.dtype, *weights))]
    y = getattr(ops, op)(*leaves, **({"heads": 2} if op == "attention" else {}))
    dh, *dweights = torch.autograd.grad(y.sum(), leaves)
    assert y.shape == dh.shape == h.shape
    assert all((d == 0).all() for d in dweights)


def test_any_layout(triton, check, random, device):
    h, (gate_up, down) = random(2, 20, 9).transpose(1, 2), layer_weights(random, 20, 12)
    h, gate_up, down = move(device, torch.float32, h, gate_up.t().contiguous().t(), down.t().contiguous().t())
    check("mlp", h, gate_up, down)
    check("mlp", h[:1].expand(3, 9, 20), gate_up, down, grad=torch.ones(1, 1, 1, device=device).expand(3, 9, 20))


def test_autocast_changes_nothing(triton, random, device):
    """The products in kernels keep the dtype of their tensors."""
    h, *weights = move(device, torch.float32, random(1, 5, 12), *attention_weights(random, 12))
    results = []
    for enabled in (False, True):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            leaf = h.clone().requires_grad_()
            y = ops.attention(leaf, *weights, heads=2)
            results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    assert all(map(torch.equal, *results))


def test_transposed_weights_of_a_mixer(triton, check, random, device):
    gate_up, down = (w.t().contiguous().t() for w in layer_weights(random, 9, 4))
    check("token_mixer", *move(device, torch.float32, random(2, 9, 5), gate_up, down))
    gate_up, down = (w.t().contiguous().t() for w in grouped_weights(random, 5, 4, UNEVEN))
    h, groups = random(2, 5, 7).transpose(1, 2), UNEVEN.t().contiguous().t()
    check("group_mixer", *move(device, torch.float32, h, gate_up, down, groups))


def test_opcheck(triton, random, device):
    def opcheck(op, *arguments):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
        return op.default(*arguments)

    L, D, eps = 5, 12, 1e-5
    z, dy = move(device, torch.float32, random(2, L, D), random(2, L, D))
    mix, mlp = (move(device, torch.float32, *layer_weights(random, width, 6)) for width in (L, D))
    project = move(device, torch.float32, *attention_weights(random, D))
    y, rstd = opcheck(KERNELS.rms_norm_fwd, z, z, 1, eps)
    opcheck(KERNELS.rms_norm_bwd, dy, y, rstd, 1)
    opcheck(KERNELS.swiglu_bwd, opcheck(KERNELS.swiglu_fwd, z, -1), z, -1)
    opcheck(KERNELS.stablemax_bwd, opcheck(KERNELS.stablemax_fwd, z, 1), z, 1)
    labels = torch.zeros(2, L, dtype=torch.int64, device=device)
    loss, total = opcheck(KERNELS.stablemax_cross_entropy_fwd, z, labels, -100)
    opcheck(KERNELS.stablemax_cross_entropy_bwd, loss, z, labels, total, -100)
    for fwd, bwd, weights in (
        (KERNELS.mlp_fwd, KERNELS.mlp_bwd, mlp),
        (KERNELS.token_mixer_fwd, KERNELS.token_mixer_bwd, mix),
    ):
        opcheck(fwd, z, False, *weights, eps)
        opcheck(bwd, dy, z, opcheck(fwd, z, True, *weights, eps)[1], *weights, eps)
    groups = torch.tensor([[0, 0, 3, 3, 3], [0, 1, 2, 3, 4]], device=device)
    grouped = move(device, torch.float32, *grouped_weights(random, D, 6, groups))
    layer = (*grouped, groups, 1.5, eps)
    opcheck(KERNELS.group_mixer_fwd, z, False, *layer)
    opcheck(KERNELS.group_mixer_bwd, dy, z, opcheck(KERNELS.group_mixer_fwd, z, True, *layer)[1], *layer)
    for cos, sin in ((None, None), rotary_tables(random, L, 6, device)):
        layer = (*project, cos, sin, None, 2, eps, False)
        opcheck(KERNELS.attention_bwd, dy, z, opcheck(KERNELS.attention_fwd, z, True, *layer)[1], *layer)
    mask = torch.ones(2, L, dtype=torch.bool, device=device)
    networks = (
        ([*mix, *mlp], None, None, mask, None, 0, 1.0, eps, False),
        (grouped, None, None, None, groups, 0, 1.5, eps, False),
    )
    for y, layers in itertools.product((z.clone(), None), networks):
        saved = opcheck(KERNELS.latent_recursion_fwd, y, z, dy, 1, True, 1, True, *layers)[2]
        arguments = (dy, z, saved, 1, y is not None, True, *layers)
        opcheck(KERNELS.latent_recursion_bwd, None if y is None else dy, *arguments)


def test_compiles_to_one_graph(triton, compiled, random, device):
    z, x = move(device, torch.float32, random(1, 5, 12), random(1, 5, 12))
    weights = move(device, torch.float32, *network(random, 5, 12, 0))
    if device.type == "cpu":  # the fixture ``compiled`` compares on a CPU
        compiled("mlp", z, *weights[2:])
        compiled("rms_norm", z, x, dim=1)
    traced = torch.compile(lambda z: ops.latent_step(z, x, weights), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(z), ops.latent_step(z, x, weights))


def test_unsupported_inputs_are_explained(triton, random, device):
    with pytest.raises(ops.BackendUnavailable, match="has no float64"):
        ops.swiglu(torch.zeros(2, device=device, dtype=torch.float64))
    wide = torch.zeros(1, 1, 257, device=device)
    with pytest.raises(ops.BackendUnavailable, match="heads up to 256 wide, not 257"):
        ops.attention(wide, wide.new_zeros(771, 257), wide.new_zeros(257, 257), heads=1)
    z = torch.zeros(1, 5, 12, device=device)
    weights = move(device, torch.float32, *network(random, 5, 12, 0))
    with pytest.raises(ValueError, match="latent_step: the mask must be bool"):
        ops.latent_step(z, z, weights, mask=torch.ones(1, 4, dtype=torch.bool, device=device))
    if registry.INTERPRETED:
        with pytest.raises(ops.BackendUnavailable, match="computes products in bfloat16 wrongly"):
            ops.swiglu(torch.zeros(2, dtype=torch.bfloat16))
