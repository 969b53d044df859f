"""Compiles every kernel at the paper's size for GPUs that this machine need not have: nothing spills, all blocks fit,
and matrix products overlap."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from trm_fast.ops._core import registry

from . import offline

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a block can get
# Bytes that a thread may spill. At 97 tokens, three accumulators take 168 of the 255 registers.
SPILLED = {(80, "token_mixer_bwd_weights_kernel"): 144, (90, "token_mixer_bwd_weights_kernel"): 16}
TABLE = Path(__file__).parents[3] / "triton_kernels" / "configs.json"
D, HEADS, B = 512, 8, 2
BATCHES = B, 32  # small and large
BF16 = torch.bfloat16

pytestmark = pytest.mark.skipif(registry.INTERPRETED, reason="the interpreter does not compile")


def mlp(D: int, inner: int):
    from trm_fast.triton_kernels.mlp import mlp_bwd, mlp_fwd

    weights = torch.zeros(2 * inner, D, dtype=BF16), torch.zeros(D, inner, dtype=BF16)
    for batch in BATCHES:
        h = torch.zeros(batch, 97, D, dtype=BF16)
        mlp_fwd(h, False, *weights, 1e-5)
        _, saved = mlp_fwd(h, True, *weights, 1e-5)
        mlp_bwd(h, h, saved, *weights, 1e-5)


def token_mixer(L: int, inner: int):
    from trm_fast.triton_kernels.token_mixer import TokenMixer

    weights = torch.zeros(2 * inner, L, dtype=BF16), torch.zeros(L, inner, dtype=BF16)
    for batch, masked in itertools.product(BATCHES, (False, True)):
        h = torch.zeros(batch, L, D, dtype=BF16)
        layer = TokenMixer(*weights, 1e-5, torch.ones(batch, L, dtype=torch.bool) if masked else None)
        kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in layer.saved_specs(h)]
        for injection in (None, h):  # the second backward adds to the sums of the first
            layer.forward(h, injection, torch.empty_like(h), kept)
            layer.backward(h, h, injection, h, kept)


def group_mixer(D: int, inner: int):
    from trm_fast.triton_kernels.group_mixer import GroupMixer

    cells = torch.arange(81)
    groups = torch.stack((cells // 9, cells % 9, cells // 27 * 3 + cells % 9 // 3))
    weights = torch.zeros(2 * inner, 4 * D, dtype=BF16), torch.zeros(D, inner, dtype=BF16)
    for batch in BATCHES:
        h = torch.zeros(batch, 81, D, dtype=BF16)
        layer = GroupMixer(*weights, groups, 1.0, 1e-5)
        kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in layer.saved_specs(h)]
        for injection, tensors in ((None, kept), (h, kept), (None, ()), (h, ())):
            layer.forward(h, injection, torch.empty_like(h), tensors)
        layer.backward(h, h, h, h, kept)


def attention(L: int):
    from trm_fast.triton_kernels.attention import Attention, attention_bwd, attention_fwd

    weights = torch.zeros(3 * D, D, dtype=BF16), torch.zeros(D, D, dtype=BF16)
    tables = torch.zeros(L, D // HEADS), torch.zeros(L, D // HEADS)
    for batch, (masked, causal) in itertools.product(BATCHES, ((False, False), (True, True), (True, False))):
        h = torch.zeros(batch, L, D, dtype=BF16)
        mask = torch.ones(batch, L, dtype=torch.bool) if masked else None
        layer = (*weights, *tables, mask, HEADS, 1e-5, causal)
        _, saved = attention_fwd(h, True, *layer)
        attention_bwd(h, h, saved, *layer)
        Attention(*weights, *tables, None, HEADS, 1e-5, False).forward(h, h, torch.empty_like(h), ())


def elementwise():
    from trm_fast.triton_kernels import rms_norm, stablemax, swiglu

    h, logits = torch.zeros(B, 97, D, dtype=BF16), torch.zeros(B, 81, 11, dtype=BF16)
    for dim in (1, 2):
        y, rstd = rms_norm.rms_norm_fwd(h, h, dim, 1e-5)
        rms_norm.rms_norm_bwd(h, y, rstd, dim)
    few = torch.zeros(B, 300, 6, dtype=BF16)  # a large block, because few channels are contiguous
    rms_norm.rms_norm_bwd(few, *rms_norm.rms_norm_fwd(few, few, 1, 1e-5), 1)
    swiglu.swiglu_bwd(swiglu.swiglu_fwd(h, -1), h, -1)
    for dim in (1, 2):
        stablemax.stablemax_bwd(stablemax.stablemax_fwd(logits, dim), logits, dim)
    labels = torch.zeros(B, 81, dtype=torch.int64)
    loss, total = stablemax.stablemax_cross_entropy_fwd(logits, labels, -100)
    stablemax.stablemax_cross_entropy_bwd(loss, logits, labels, total, -100)


def optimizer():
    from trm_fast.triton_kernels import adam_atan2_, sign_sgd_rows_

    p, copy = torch.zeros(1024, 97), torch.zeros(1024, 112, dtype=BF16)
    lr, step = torch.tensor(1e-3), torch.tensor(1)
    for ema, copies, variant in (([p], [copy], False), ([], [], True)):
        adam_atan2_.adam_atan2_(
            [p], [p], [p], [p], ema, copies, [8] * len(copies), lr, step, lr if ema else None, 0.9, 0.95, 0.1, 0.999,
            1e-8, variant,
        )  # fmt: skip
    ids = torch.zeros(768, dtype=torch.int64)
    sign_sgd_rows_.sign_sgd_rows_(torch.zeros(1000, 512), torch.zeros(768, 512), ids, lr, 0.1)


def ones():
    """Sizes of 1, which a launch turns into constants."""
    from trm_fast.triton_kernels import (
        adam_atan2_,
        attention,
        group_mixer,
        mlp,
        rms_norm,
        sign_sgd_rows_,
        stablemax,
        token_mixer,
    )

    h, w, lr = torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.tensor(1e-3)
    pair, qkv, mask = torch.zeros(2, 1), torch.zeros(3, 1), torch.ones(1, 1, dtype=torch.bool)
    for layer in (
        mlp.MLP(pair, w, 1e-5),
        token_mixer.TokenMixer(pair, w, 1e-5, mask),
        group_mixer.GroupMixer(torch.zeros(2, 2), w, torch.zeros(1, 1, dtype=torch.int64), 1.0, 1e-5),
        attention.Attention(qkv, w, w, w, mask, 1, 1e-5, True),
    ):
        kept = [h.new_zeros(shape, dtype=dtype) for shape, dtype in layer.saved_specs(h)]
        layer.forward(h, h, torch.empty_like(h), kept)
        layer.backward(h, h, h, h, kept)
    rms_norm.rms_norm_bwd(h, *rms_norm.rms_norm_fwd(h, None, 1, 1e-5), 1)
    stablemax.stablemax_bwd(stablemax.stablemax_fwd(h, 1), h, 1)
    labels = torch.zeros(1, 1, dtype=torch.int64)
    loss, total = stablemax.stablemax_cross_entropy_fwd(h, labels, -100)
    stablemax.stablemax_cross_entropy_bwd(loss, h, labels, total, -100)
    copy = w.bfloat16()
    adam_atan2_.adam_atan2_([w], [w], [w], [w], [w], [copy], [0], lr, lr, lr, 0.0, 0.95, 0.1, 0.9, 1e-8, False)
    sign_sgd_rows_.sign_sgd_rows_(w, w, labels[0], lr, 0.1)


CASES = {
    "ones": ones,
    "optimizer": optimizer,
    "elementwise": elementwise,
    "mlp-512": lambda: mlp(512, 1536),
    "mlp-256": lambda: mlp(256, 768),
    "token_mixer-97": lambda: token_mixer(97, 512),
    "token_mixer-81": lambda: token_mixer(81, 256),
    "group_mixer-512": lambda: group_mixer(512, 1536),
    "group_mixer-256": lambda: group_mixer(256, 768),
    "attention-97": lambda: attention(97),
    "attention-81": lambda: attention(81),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize("case", CASES)
def test_compiles_without_spills(monkeypatch, tmp_path, record_property, case, arch):
    if arch == 80 and case.endswith("-81"):
        pytest.skip("for sm_80, only 97 tokens are compiled, to save time")
    from trm_fast.triton_kernels import configs

    seen = {}
    for kernel, arguments in offline.launches(monkeypatch, arch, CASES[case]):
        constants = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
        seen[kernel.__name__, str(constants)] = (kernel, arguments)
    assert len(seen) >= 3
    # A table tuned by bench/gpu.sh may have candidates that are faster in spite of a few spilled bytes or small tiles.
    tuned = configs.TABLE.read_text() != TABLE.read_text()
    for kernel, arguments in seen.values():
        binary = offline.compile_for(arch, kernel, arguments, tmp_path)
        facts = (
            f"{binary.name} {binary.options}: {binary.registers} registers, {binary.shared} bytes shared, "
            f"{binary.stack} spilled"
        )
        print(f"sm_{arch} {case} {facts}")
        record_property(f"sm_{arch} {binary.name}", facts)
        assert binary.stack <= SPILLED.get((arch, binary.name), offline.MAX_CANDIDATE_SPILL if tuned else 0), facts
        assert binary.registers <= 255, facts
        assert not binary.serialized, facts
        assert binary.shared <= SHARED[arch], facts
        first = binary.name.split("_")[0]
        if case not in ("elementwise", "optimizer", "ones") and first not in ("rms", "swiglu", "sum", "add"):
            assert ("wgmma.mma_async" if arch == 90 and not tuned else "mma") in binary.ptx, facts
