"""The layers in bfloat16 on a CPU that has products in bfloat16, against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import dispatch, selection

FUSED = {"mlp", "token_mixer", "attention", "latent_step", "latent_recursion"}
# B, L, D, inner, heads (0: token mixer): odd depths, several groups, more channels than one pass of the MLP.
SHAPES = [(2, 97, 72, 24, 0), (3, 7, 20, 12, 0), (40, 16, 64, 33, 0), (3, 81, 24, 12, 2), (2, 35, 39, 555, 3)]


@pytest.fixture
def bfloat16(native):
    if not native.has_bfloat16():
        pytest.skip(f"this CPU has no products of bfloat16: its kernels run as {native.cpu_path()}")
    with ops.use_backend("cpp"), torch.no_grad():
        yield


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


def within_policy(name, *arguments, **options):
    def wide(value):
        if isinstance(value, (list, tuple)):
            return [wide(v) for v in value]
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    kernel = getattr(ops, name)(*arguments, **options)
    plain = getattr(reference, name)(*arguments, **options)
    truth = getattr(reference, name)(*wide(arguments), **{k: wide(v) for k, v in options.items()})
    results = zip(kernel, plain, truth, strict=True) if isinstance(kernel, tuple) else [(kernel, plain, truth)]
    for k, p, t in results:
        if k is None:
            assert p is None
            continue
        assert k.dtype == torch.bfloat16
        assert k.shape == t.shape
        for size in (torch.linalg.vector_norm, lambda e: e.abs().max()):
            assert size(k.double() - t) <= 2 * size(p.double() - t)


@pytest.mark.parametrize("shape", SHAPES)
def test_layers(bfloat16, random, shape):
    B, L, D, inner, heads = shape
    h = random(B, L, D).bfloat16()
    *first, gate_up, down = weights_for(random, L, D, inner, heads, blocks=1)
    within_policy("mlp", h, gate_up, down)
    if heads:
        angles = random(L, D // heads).bfloat16()
        rotary = None if D // heads % 2 else (angles.cos(), angles.sin())
        within_policy("attention", h, *first, heads, rotary)
        for mask in masks(B, L):
            within_policy("attention", h, *first, heads, rotary, mask=mask, causal=True)
    else:
        within_policy("token_mixer", h, *first)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_recursion_and_step(bfloat16, random, shape, dual):
    B, L, D, inner, heads = shape
    y, z, x = (random(B, L, D).bfloat16() for _ in range(3))
    weights = weights_for(random, L, D, inner, heads)
    within_policy("latent_step", z, x, weights, heads=heads)
    for last in (True, False):
        within_policy(
            "latent_recursion", y if dual else None, z, x, weights, 2, heads=heads, cycles=2, inject_last=last
        )
        for mask in masks(B, L):
            options = {"heads": heads, "inject_last": last, "mask": mask, "causal": heads > 0}
            within_policy("latent_recursion", y if dual else None, z, x, weights, 1, **options)


def test_products_are_rounded_to_bfloat16(bfloat16, random):
    """This path differs from float32 kernels on widened tensors."""
    h = random(2, 9, 64).bfloat16()
    gate_up, down = weights_for(random, 9, 64, 40, 0, blocks=1)[2:]
    wide = ops.mlp(h.float(), gate_up.float(), down.float())
    # The float32 kernel does not round the hidden channels; this one does.
    assert not torch.equal(ops.mlp(h, gate_up, down), wide.bfloat16())


def test_opcheck_and_strided_states(bfloat16, random):
    z, x = (random(3, 20, 7).bfloat16().mT for _ in range(2))
    weights = weights_for(random, 7, 20, 12, 0)
    within_policy("latent_step", z, x, weights)
    fwd = torch.ops.trm_fast.latent_recursion_fwd.default
    torch.library.opcheck(fwd, (None, z, x, 1, True, 1, False, weights, None, None, None, None, 0, 1.0, 1e-5, False))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_specials_stay_in_their_sample(bfloat16, random, poison):
    z, x = (random(4, 7, 20).bfloat16() for _ in range(2))
    z[1, 2, 3] = poison
    out = ops.latent_step(z, x, weights_for(random, 7, 20, 12, 0))
    assert not out[1].isfinite().all()
    assert out[torch.arange(4) != 1].isfinite().all()


def test_gradients_use_the_reference(bfloat16, random):
    h = random(2, 9, 64).bfloat16()
    gate_up, down = weights_for(random, 9, 64, 40, 0, blocks=1)[2:]
    with torch.enable_grad():
        with pytest.raises(ops.BackendUnavailable, match="its bfloat16 has no gradient"):
            ops.mlp(h, gate_up.requires_grad_(), down)
        with ops.use_backend("auto"):
            assert dispatch.select("mlp", h, gate_up, down) == "reference"
            assert dispatch.select("mlp", h) == "cpp"
            assert torch.equal(ops.mlp(h, gate_up, down), reference.mlp(h, gate_up, down))
            assert not dispatch.has_kernel("latent_recursion", h)


def test_the_table_lists_bfloat16_only_with_its_instruction_set(native):
    rows = {r.op: r for r in ops.table(["cpu"], [torch.bfloat16]) if r.op in FUSED}
    assert rows.keys() == FUSED
    for row in rows.values():
        assert (row.backend == "cpp") == native.has_bfloat16()


def test_other_instruction_sets_refuse_bfloat16(bfloat16, native, random):
    h = random(2, 9, 64).bfloat16()
    weights = weights_for(random, 9, 64, 40, 0, blocks=1)[2:]
    path, plain = native.cpu_path(), native.cpu_path().removesuffix("bf16")
    native.set_cpu_path(plain)
    try:
        with pytest.raises(
            RuntimeError, match=f"needs a CPU with products of bfloat16, and the kernels run as {plain}"
        ):
            torch.ops.trm_fast.mlp_fwd.default(h, False, *weights, 1e-5)
        assert "needs a CPU with products of bfloat16" in str(
            selection.unavailable("mlp", "cpp", "cpu", torch.bfloat16)
        )
    finally:
        native.set_cpu_path(path)
